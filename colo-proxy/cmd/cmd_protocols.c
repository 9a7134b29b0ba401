/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `colo-proxy check --protocols`: the table that the comparison goes by, as text or as JSON. */
#include <stdio.h>

#include "colo-proxy/cmd/cmd.h"
#include "colo-proxy/core/packet.h"
#include "colo-proxy/core/protocols.h"

/* "ip 50-51", "ethertype other". g_free(). */
static char *number_text(const struct protocol *row)
{
	const char *base = row->layer == LAYER_LINK || row->layer == LAYER_LLC ? "0x%04x" : "%u";
	GString *text = g_string_new(protocol_layer_name(row->layer));

	if (!row->number[0].to)
		g_string_append(text, " other");
	for (unsigned i = 0; i < PROTOCOL_RANGES && row->number[i].to; i++) {
		g_string_append_c(text, ' ');
		g_string_append_printf(text, base, row->number[i].from);
		if (row->number[i].to != row->number[i].from) {
			g_string_append_c(text, '-');
			g_string_append_printf(text, base, row->number[i].to);
		}
	}
	return g_string_free(text, FALSE);
}

static void print_text(void)
{
	printf("%-20s %-18s %-9s %s\n", "PROTOCOL", "NUMBER", "TREATMENT", "BY WHAT, OR WHY NOT");
	for (unsigned i = 0; i < PROTOCOL_COUNT; i++) {
		const struct protocol *row = &protocols[i];
		char *number = number_text(row);

		printf("%-20s %-18s %-9s %s\n", row->name, number, treatment_name(row->treatment),
		       row->rule);
		g_free(number);
	}
	printf("\n%-36s %s\n", "HELD FOR COMMIT, ALSO OF THESE", "WHY");
	for (unsigned i = PACKET_WHY_NONE + 1; i < PACKET_WHY_COUNT; i++)
		printf("%-36s %s\n", packet_why_name(i), packet_why_text(i));
	printf("\ninside: by what it carries. stream: released when the other VM has said the "
	       "same\n"
	       "bytes. datagram: when it has said the same, in the flow's order. groups: when its\n"
	       "newest word on each group is the same. commit: released by the next checkpoint\n"
	       "only. Nothing is let through for what it is (rule R1).\n");
}

static json_t *numbers_json(const struct protocol *row)
{
	json_t *numbers = json_array();

	for (unsigned i = 0; i < PROTOCOL_RANGES && row->number[i].to; i++)
		json_array_append_new(numbers,
		                      json_pack("[i, i]", row->number[i].from, row->number[i].to));
	return numbers;
}

static void print_json(void)
{
	json_t *rows = json_array();
	json_t *reasons = json_array();
	json_t *all;

	for (unsigned i = 0; i < PROTOCOL_COUNT; i++) {
		const struct protocol *row = &protocols[i];

		json_array_append_new(rows,
		                      json_pack("{s:s, s:s, s:o, s:s, s:s}", "name", row->name,
		                                "layer", protocol_layer_name(row->layer), "numbers",
		                                numbers_json(row), "treatment",
		                                treatment_name(row->treatment), "rule", row->rule));
	}
	for (unsigned i = PACKET_WHY_NONE + 1; i < PACKET_WHY_COUNT; i++)
		json_array_append_new(reasons, json_pack("{s:s, s:s}", "name", packet_why_name(i),
		                                         "why", packet_why_text(i)));
	all = json_pack("{s:o, s:o}", "protocols", rows, "held_for_commit", reasons);
	cmd_print_json(all);
	json_decref(all);
}

void cmd_print_protocols(bool json)
{
	if (json)
		print_json();
	else
		print_text();
}
