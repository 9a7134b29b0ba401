/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LINK_CODEC_H
#define COLO_LINK_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Frames of the replication link (docs/link-protocol.md). Pure: bytes in, frames out.
 *
 * Every message is one frame. All integers are big endian.
 *
 *	offset	size
 *	     0	   4	magic 0x434f4c4b ("COLK")
 *	     4	   1	framing version, 1
 *	     5	   1	type: 1-15 the link's own, 16-255 its user's
 *	     6	   1	channel: 0 fast, 1 bulk, 2 to 9 the stripes of the bulk channel
 *	     7	   1	flags, 0 in version 1
 *	     8	   4	epoch
 *	    12	   4	payload length
 *	    16	   8	sequence: 0, 1, 2, ... for each connection and direction
 *	    24	   8	XXH3-64 of the frame with this field zero, seeded (see below)
 *	    32	   n	payload
 *
 * The seed is 0 until the session is agreed on and the session id from then on, so a frame of
 * another session never validates. The checksum finds accidents; TLS keeps attackers out.
 */

#define LINK_MAGIC         0x434f4c4bu
#define LINK_FRAME_VERSION 1u
#define LINK_HEADER_LEN    32u
#define LINK_TYPE_USER     16u          /* the first type that is not the link's own */
#define LINK_MAX_OWN       2048u        /* payload bytes of the link's own types */
#define LINK_MAX_FAST      (256u << 10) /* payload bytes on the fast channel */
#define LINK_MAX_BULK      (1u << 20)   /* payload bytes on the bulk channel */

enum link_channel {
	LINK_FAST, /* heartbeats, input, digests, control: small and urgent */
	LINK_BULK, /* the migration stream and checkpoints */
	LINK_CHANNELS,
};

/*
 * Connections that a session may have besides, the stripes: stripe k has LINK_CHANNELS + k where a
 * channel stands. They carry messages of the bulk channel (stripe.h).
 */
#define LINK_STREAMS_MAX 8u
#define LINK_PLACES      (LINK_CHANNELS + LINK_STREAMS_MAX)

/* The link's own types; see hello.h for their payloads. */
enum link_own_type {
	LINK_HELLO = 1,
	LINK_HELLO_REPLY = 2,
	LINK_PROOF = 3,
	LINK_READY = 4,
	LINK_REFUSE = 5,
	LINK_BYE = 6,
	LINK_MARKER = 7, /* bulk channel only */
};

struct link_header {
	uint8_t type;
	uint8_t channel;
	uint32_t epoch;
	uint32_t len;
	uint64_t sequence;
};

/*
 * Payload of a MARKER: the bulk channel's next message is the next one of a stripe.
 *
 *	offset	size
 *	     0	   8	its sequence there
 *	     8	   4	its payload length
 *	    12	   1	the stripe, from 0
 *	    13	   3	0
 */
#define LINK_MARKER_LEN 16u

struct link_marker {
	uint64_t sequence;
	uint32_t len;
	uint8_t stripe;
};

void link_marker_pack(uint8_t out[LINK_MARKER_LEN], const struct link_marker *marker);
/* In a session with so many stripes. 0, or -EPROTO with words. */
int link_marker_unpack(const uint8_t *payload, size_t len, unsigned stripes,
                       struct link_marker *ret_marker, char *err, size_t errlen);
/* Whether it is the message with this header that the marker has named. */
bool link_marker_names(const struct link_marker *marker, const struct link_header *h);

/* The most payload bytes that a frame of this type may carry on this channel; 0: no such type. */
uint32_t link_max_payload(uint8_t type, uint8_t channel);

/*
 * Writes the header of a frame whose h->len payload bytes stand at out + LINK_HEADER_LEN already.
 * The caller has kept h within link_max_payload().
 */
void link_encode(uint8_t *out, const struct link_header *h, uint64_t seed);

/*
 * Finds the frames in a stream of bytes that may be cut anywhere. The buffer is the decoder's own
 * and of a fixed size: nothing that the peer says makes it allocate.
 */
struct link_decoder {
	uint8_t *buf;
	size_t room;       /* of buf */
	size_t head, tail; /* the bytes not yet handed out */
	uint64_t offset;   /* of head in the stream, for the words of errors */
	uint64_t sequence; /* that the next frame must have */
	uint64_t seed;
	int channel;  /* that frames must be of; -1: not known yet, the first frame says */
	bool session; /* user types are accepted */
	int error;    /* sticky */
};

/* Room for frames of the link's own types only. 0 or -ENOMEM. */
int link_decoder_init(struct link_decoder *d, int channel);
/* From here on the session's frames: seed is its id, and there is room for any frame. 0, -ENOMEM */
int link_decoder_session(struct link_decoder *d, uint64_t seed);
/* NULL-safe on the buffer; d may be all zero. */
void link_decoder_free(struct link_decoder *d);

/*
 * Where the next bytes of the stream go, and how many fit (never 0 when link_decoder_next() has
 * just said 0). Moves what is left over, so payloads handed out before are no longer valid.
 */
uint8_t *link_decoder_space(struct link_decoder *d, size_t *ret_len);
void link_decoder_filled(struct link_decoder *d, size_t n);

/*
 * The next frame: 1, with *ret_payload pointing into the buffer until link_decoder_space(); 0 when
 * more bytes are needed; -EPROTO when the bytes are no frame that may stand here, -EBADMSG when
 * the checksum is wrong, both with words in err and final for this stream.
 */
int link_decoder_next(struct link_decoder *d, struct link_header *ret_header,
                      const uint8_t **ret_payload, char *err, size_t errlen);

#endif
