/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/capture.h"

#include "colo-proxy/datapath/netlink.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <pcap/pcap.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S      1000000000ull
#define RECORD_HEADER 16u /* pcap-savefile(5) */
#define FILE_HEADER   24u

struct capture {
	pcap_t *pcap;
	pcap_dumper_t *dumper;
	uint64_t limit;
	uint64_t written;
	uint64_t to_wall; /* what to add to CLOCK_BOOTTIME */
	uint8_t *scratch; /* for frames that get an Ethernet header */
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static int open_dumper(struct capture *c, const char *path, char *err, size_t errlen)
{
	FILE *file;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return netlink_error(err, errlen, -errno, "%s: %s", path, strerror(errno));
	file = fdopen(fd, "w");
	if (!file) {
		close(fd);
		return -ENOMEM;
	}
	c->pcap = pcap_open_dead_with_tstamp_precision(DLT_EN10MB, FRAME_MAX_LEN,
	                                               PCAP_TSTAMP_PRECISION_NANO);
	if (c->pcap)
		c->dumper = pcap_dump_fopen(c->pcap, file);
	if (!c->dumper) {
		fclose(file);
		return netlink_error(err, errlen, -EIO, "%s: %s", path,
		                     c->pcap ? pcap_geterr(c->pcap) : "out of memory");
	}
	return 0;
}

int capture_open(const char *path, uint64_t limit, struct capture **ret_capture, char *err,
                 size_t errlen)
{
	struct capture *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return -ENOMEM;
	c->limit = limit;
	c->written = FILE_HEADER;
	c->to_wall = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_BOOTTIME);
	c->scratch = calloc(1, FRAME_MAX_LEN);
	ret = c->scratch ? open_dumper(c, path, err, errlen) : -ENOMEM;
	if (ret < 0) {
		capture_close(c);
		return ret;
	}
	*ret_capture = c;
	return 0;
}

/* The bytes as a frame with Ethernet header; *len is that of the result. */
static const uint8_t *as_ethernet(struct capture *c, const struct frame *f, uint32_t *len)
{
	unsigned type = f->len && f->data[0] >> 4 == 6 ? ETH_P_IPV6 : ETH_P_IP;

	*len = f->len;
	if (f->start != FRAME_AT_IP)
		return f->data;
	if (*len > FRAME_MAX_LEN - ETH_HLEN)
		*len = FRAME_MAX_LEN - ETH_HLEN;
	c->scratch[12] = (uint8_t)(type >> 8);
	c->scratch[13] = (uint8_t)type;
	memcpy(c->scratch + ETH_HLEN, f->data, *len);
	*len += ETH_HLEN;
	return c->scratch;
}

int capture_frame(struct capture *c, const struct frame *f, uint64_t now)
{
	struct pcap_pkthdr header = {0};
	uint64_t wall = now + c->to_wall;
	uint32_t len;
	const uint8_t *bytes = as_ethernet(c, f, &len);

	if (c->limit && c->written + RECORD_HEADER + len > c->limit)
		return -ENOSPC;
	header.ts.tv_sec = (time_t)(wall / NS_PER_S);
	header.ts.tv_usec = (suseconds_t)(wall % NS_PER_S); /* nanoseconds, as the file says */
	header.caplen = len;
	header.len = len;
	pcap_dump((u_char *)c->dumper, &header, bytes);
	if (ferror(pcap_dump_file(c->dumper)))
		return -EIO;
	c->written += RECORD_HEADER + len;
	return 0;
}

int capture_flush(struct capture *c)
{
	return c && pcap_dump_flush(c->dumper) < 0 ? -EIO : 0;
}

int capture_close(struct capture *c)
{
	int ret = 0;

	if (!c)
		return 0;
	if (c->dumper) {
		if (pcap_dump_flush(c->dumper) < 0 || ferror(pcap_dump_file(c->dumper)))
			ret = -EIO;
		pcap_dump_close(c->dumper);
	}
	if (c->pcap)
		pcap_close(c->pcap);
	free(c->scratch);
	free(c);
	return ret;
}
