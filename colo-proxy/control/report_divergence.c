/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Divergences as JSON, as text and as a capture file. */
#include "colo-proxy/control/report_divergence.h"

#include "colo-proxy/control/report.h"

#include <ctype.h>
#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <string.h>

#include "colo-proxy/control/pcapng.h"
#include "colo-proxy/core/frame.h"

#define ROW      16u
#define UNKNOWN  "--" /* a byte that was not said, among hexadecimal ones */
#define BASE_LEN 1024 /* of an entry's JSON, beside its packets */

/* ---- to JSON ---- */

static json_t *packet_json(const struct evidence_packet *packet)
{
	char *data = g_base64_encode(packet->frame->data, packet->frame->len);
	char text[200] = "";
	struct packet view;
	json_t *json;

	if (packet_parse(&view, packet->frame) == 0)
		packet_describe(&view, text, sizeof(text));
	json = json_pack("{s:I, s:I, s:s, s:s, s:s}", "at_ns", (json_int_t)packet->at_ns, "length",
	                 (json_int_t)packet->original, "text", text, "start",
	                 packet->frame->start == FRAME_AT_IP ? "ip" : "ethernet", "data", data);
	g_free(data);
	return json;
}

static json_t *side_json(const struct evidence_side *side)
{
	json_t *packets = json_array();

	for (uint32_t i = 0; i < side->count; i++)
		json_array_append_new(packets, packet_json(&side->packet[i]));
	return packets;
}

static json_t *window_json(const struct evidence *evidence, const struct evidence_side *side,
                           uint32_t *ret_at)
{
	uint8_t bytes[EVIDENCE_WINDOW];
	char text[2 * EVIDENCE_WINDOW + 1] = "";
	uint64_t known;

	evidence_window(evidence, side, ret_at, bytes, &known);
	for (unsigned i = 0; i < EVIDENCE_WINDOW; i++) {
		if (known >> i & 1)
			snprintf(text + 2 * i, 3, "%02x", bytes[i]);
		else
			memcpy(text + 2 * i, UNKNOWN, 3);
	}
	return json_string(text);
}

/* An offset of the stream when its beginning is known, else null. */
static json_t *offset_json(const struct evidence *evidence, uint32_t seq)
{
	uint32_t offset;

	return evidence_offset(evidence, seq, &offset) ? json_integer(offset) : json_null();
}

static json_t *evidence_json(const struct evidence *evidence)
{
	char flow[FLOW_KEY_TEXT_LEN];
	uint32_t at;
	json_t *primary = window_json(evidence, &evidence->pvm, &at);
	json_t *secondary = window_json(evidence, &evidence->svm, &at);
	json_t *difference = json_null();

	if (evidence->differs)
		difference =
		        json_pack("{s:I, s:o}", "at", (json_int_t)evidence->differs_at, "offset",
		                  offset_json(evidence, evidence->seq + evidence->differs_at));
	return json_pack("{s:I, s:I, s:s, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:o, s:s, "
	                 "s:{s:I, s:o, s:o, s:o}, s:o, s:o}",
	                 "id", (json_int_t)evidence->id, "at_ns", (json_int_t)evidence->at_ns,
	                 "cause", ckpt_cause_name(evidence->cause), "epoch",
	                 (json_int_t)evidence->epoch, "what", evidence->what, "flow",
	                 evidence_flow_text(evidence, flow, sizeof(flow)), "seq",
	                 (json_int_t)evidence->seq, "length", (json_int_t)evidence->len, "wanted",
	                 (json_int_t)evidence->wanted, "seen", (json_int_t)evidence->seen, "offset",
	                 offset_json(evidence, evidence->seq), "difference", difference,
	                 "secondary_is", evidence_found_name(evidence->found), "bytes", "at",
	                 (json_int_t)at, "offset", offset_json(evidence, evidence->seq + at),
	                 "primary", primary, "secondary", secondary, "primary",
	                 side_json(&evidence->pvm), "secondary", side_json(&evidence->svm));
}

/* About as long as its JSON. */
static size_t json_size(const struct evidence *evidence)
{
	size_t size = BASE_LEN;

	for (uint32_t i = 0; i < evidence->pvm.count; i++)
		size += BASE_LEN + evidence->pvm.packet[i].frame->len * 4 / 3;
	for (uint32_t i = 0; i < evidence->svm.count; i++)
		size += BASE_LEN + evidence->svm.packet[i].frame->len * 4 / 3;
	return size;
}

json_t *divergences_to_json(const struct evidence *list, uint32_t count, size_t max_bytes)
{
	json_t *array = json_array();
	size_t size = 0;
	uint32_t first = count;

	while (first > 0 && size + json_size(&list[first - 1]) <= max_bytes)
		size += json_size(&list[--first]);
	for (uint32_t i = first; i < count; i++)
		json_array_append_new(array, evidence_json(&list[i]));
	return json_pack("{s:o, s:I}", "divergences", array, "left_out", (json_int_t)first);
}

/* ---- from JSON ---- */

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static uint64_t number_of(const json_t *object, const char *key)
{
	json_int_t number = json_integer_value(json_object_get(object, key));

	return number > 0 ? (uint64_t)number : 0;
}

/* ---- as text ---- */

/* The byte at i of a window's text, or -1. */
static int window_byte(const char *window, unsigned i)
{
	char digits[3] = {0};

	if (2 * i + 1 >= strlen(window))
		return -1;
	memcpy(digits, window + 2 * i, 2);
	return g_ascii_isxdigit(digits[0]) ? (int)g_ascii_strtoull(digits, NULL, 16) : -1;
}

static bool row_known(const char *window, unsigned row)
{
	for (unsigned i = row; i < row + ROW; i++)
		if (window_byte(window, i) >= 0)
			return true;
	return false;
}

static void print_row(FILE *out, const char *name, uint64_t offset, const char *window,
                      unsigned row)
{
	fprintf(out, "    %-9s %8" PRIu64 " ", name, offset + row);
	for (unsigned i = row; i < row + ROW; i++) {
		int byte = window_byte(window, i);

		if (byte < 0)
			fprintf(out, " --");
		else
			fprintf(out, " %02x", (unsigned)byte);
	}
	fprintf(out, "  |");
	for (unsigned i = row; i < row + ROW; i++) {
		int byte = window_byte(window, i);

		fputc(byte < 0 ? ' ' : g_ascii_isprint(byte) ? byte : '.', out);
	}
	fprintf(out, "|\n");
}

/* A mark below each byte that differs. */
static void print_marks(FILE *out, const char *a, const char *b, unsigned row)
{
	char line[24 + 3 * ROW + 3 + ROW + 1];
	size_t end = 0;

	memset(line, ' ', sizeof(line));
	for (unsigned i = 0; i < ROW; i++) {
		size_t hex = 24 + 3 * i, character = 24 + 3 * ROW + 2 + i;

		if (window_byte(a, row + i) == window_byte(b, row + i))
			continue;
		line[hex] = line[hex + 1] = line[character] = '^';
		end = character + 1;
	}
	if (end)
		fprintf(out, "%.*s\n", (int)end, line);
}

static void print_bytes(FILE *out, const json_t *entry)
{
	const json_t *bytes = json_object_get(entry, "bytes");
	const json_t *offset = json_object_get(bytes, "offset");
	const char *a = text_of(bytes, "primary"), *b = text_of(bytes, "secondary");
	bool differs = json_is_object(json_object_get(entry, "difference"));
	uint64_t base = number_of(bytes, json_is_integer(offset) ? "offset" : "at");

	for (unsigned row = 0; row < EVIDENCE_WINDOW; row += ROW) {
		if (row_known(a, row))
			print_row(out, "primary", base, a, row);
		if (row_known(b, row))
			print_row(out, "secondary", base, b, row);
		if (differs)
			print_marks(out, a, b, row);
	}
}

static void print_packets(FILE *out, const char *name, const json_t *packets)
{
	const json_t *packet;
	size_t i;

	json_array_foreach(packets, i, packet)
	{
		char at[48];

		report_clock_text(at, sizeof(at), number_of(packet, "at_ns"));
		fprintf(out, "    %-9s %s  %s\n", name, at + strlen("2026-01-01 "),
		        text_of(packet, "text"));
	}
}

static void print_where(FILE *out, const json_t *entry)
{
	const json_t *offset = json_object_get(entry, "offset");
	const json_t *difference = json_object_get(entry, "difference");
	const json_t *at = json_object_get(difference, "offset");
	uint64_t length = number_of(entry, "length");

	if (!*text_of(entry, "flow"))
		return;
	fprintf(out, "    %s", text_of(entry, "flow"));
	if (json_is_integer(offset))
		fprintf(out, ", stream offset %" JSON_INTEGER_FORMAT, json_integer_value(offset));
	if (length)
		fprintf(out, ", %" PRIu64 " byte%s", length, length == 1 ? "" : "s");
	if (json_is_integer(at))
		fprintf(out, "; first difference at offset %" JSON_INTEGER_FORMAT,
		        json_integer_value(at));
	else if (json_is_object(difference))
		fprintf(out, "; first difference at byte %" PRIu64, number_of(difference, "at"));
	fprintf(out, "\n");
}

static void print_entry(FILE *out, const json_t *entry)
{
	const char *state = text_of(entry, "secondary_is");
	char at[48];

	fprintf(out, "#%" PRIu64 "  %s  epoch %" PRIu64 "  %s: %s\n", number_of(entry, "id"),
	        report_clock_text(at, sizeof(at), number_of(entry, "at_ns")),
	        number_of(entry, "epoch"), text_of(entry, "cause"), text_of(entry, "what"));
	print_where(out, entry);
	print_packets(out, "primary", json_object_get(entry, "primary"));
	print_packets(out, "secondary", json_object_get(entry, "secondary"));
	if (!strcmp(state, "gone"))
		fprintf(out, "    secondary has nothing of it: never said, or not kept any more\n");
	else if (!strcmp(state, "waiting"))
		fprintf(out, "    secondary has been asked and has not answered yet\n");
	print_bytes(out, entry);
}

int divergences_print(FILE *out, const json_t *result)
{
	const json_t *list = json_object_get(result, "divergences");
	const json_t *entry;
	size_t i;

	if (!json_is_array(list))
		return -EPROTO;
	json_array_foreach(list, i, entry)
	{
		if (i)
			fputc('\n', out);
		print_entry(out, entry);
	}
	if (number_of(result, "left_out"))
		fprintf(out, "\n%" PRIu64 " older ones are left out; see --count\n",
		        number_of(result, "left_out"));
	return 0;
}

/* ---- as a capture ---- */

/* The packet with an Ethernet header, whatever it starts with. g_free(). NULL: damaged. */
static guchar *packet_bytes(const json_t *packet, size_t *ret_len, uint32_t *ret_header)
{
	guchar *data = g_base64_decode(text_of(packet, "data"), ret_len);
	guchar *whole;

	*ret_header = 0;
	if (!*ret_len || *ret_len > FRAME_MAX_LEN) {
		g_free(data);
		return NULL;
	}
	if (strcmp(text_of(packet, "start"), "ip") != 0)
		return data;
	*ret_header = 14;
	whole = g_malloc0(*ret_len + *ret_header);
	whole[12] = data[0] >> 4 == 6 ? 0x86 : 0x08;
	whole[13] = data[0] >> 4 == 6 ? 0xdd : 0x00;
	memcpy(whole + *ret_header, data, *ret_len);
	*ret_len += *ret_header;
	g_free(data);
	return whole;
}

static char *comment_of(const json_t *entry, const char *side, size_t number, size_t count)
{
	GString *out = g_string_new(NULL);
	const json_t *difference = json_object_get(entry, "difference");
	const json_t *at = json_object_get(difference, "offset");

	g_string_printf(out, "divergence %" PRIu64 ", %s, epoch %" PRIu64 ": %s; %s; ",
	                number_of(entry, "id"), text_of(entry, "cause"), number_of(entry, "epoch"),
	                text_of(entry, "what"), text_of(entry, "flow"));
	if (json_is_integer(at))
		g_string_append_printf(
		        out, "first difference at stream offset %" JSON_INTEGER_FORMAT "; ",
		        json_integer_value(at));
	else if (json_is_object(difference))
		g_string_append_printf(out, "first difference at byte %" PRIu64 "; ",
		                       number_of(difference, "at"));
	g_string_append_printf(out, "%s VM, packet %zu of %zu", side, number, count);
	return g_string_free(out, FALSE);
}

static int write_side(struct pcapng *file, uint32_t interface, const json_t *entry,
                      const char *side)
{
	const json_t *packets = json_object_get(entry, side);
	const json_t *packet;
	size_t i;
	int n = 0;

	json_array_foreach(packets, i, packet)
	{
		uint32_t header;
		size_t len;
		guchar *bytes = packet_bytes(packet, &len, &header);
		size_t original = number_of(packet, "length") + header;
		char *comment = comment_of(entry, side, i + 1, json_array_size(packets));
		int r = -EPROTO;

		if (bytes)
			r = pcapng_packet(file, interface, number_of(packet, "at_ns"), bytes,
			                  (uint32_t)len,
			                  (uint32_t)(original < len ? len : original), comment);
		g_free(comment);
		g_free(bytes);
		if (r < 0)
			return r;
		n++;
	}
	return n;
}

static int write_all(struct pcapng *file, const json_t *list)
{
	const json_t *entry;
	size_t i;
	int r = pcapng_interface(file, "primary", "what the primary VM said");
	int n = 0;

	if (r == 0)
		r = pcapng_interface(file, "secondary",
		                     "what the secondary VM said, in the primary's numbers");
	if (r < 0)
		return r;
	json_array_foreach(list, i, entry)
	{
		r = write_side(file, 0, entry, "primary");
		n += r > 0 ? r : 0;
		if (r >= 0)
			r = write_side(file, 1, entry, "secondary");
		n += r > 0 ? r : 0;
		if (r < 0)
			return r;
	}
	return n;
}

int divergences_pcapng(const char *path, const json_t *result, char *err, size_t errlen)
{
	struct pcapng *file;
	int n = pcapng_open(path, &file);
	int r;

	if (n < 0) {
		snprintf(err, errlen, "%s: %s", path, strerror(-n));
		return n;
	}
	n = write_all(file, json_object_get(result, "divergences"));
	r = pcapng_close(file);
	if (n >= 0 && r < 0)
		n = r;
	if (n < 0)
		snprintf(err, errlen, "%s: %s", path,
		         n == -EPROTO ? "the daemon's answer cannot be read" : strerror(-n));
	return n;
}
