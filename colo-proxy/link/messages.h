/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LINK_MESSAGES_H
#define COLO_LINK_MESSAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/frame.h"
#include "colo-proxy/core/natmap.h"
#include "colo-proxy/core/recent.h"
#include "colo-proxy/core/records.h"

/*
 * The messages of the two daemons, as payloads of the link's frames. All integers are big endian;
 * offsets are bytes from the start of the payload. The frame's header carries the epoch (P -> S:
 * the PVM's epoch; S -> P: the SVM's lineage). A payload of another length than stated is refused
 * with -EPROTO.
 *
 *   type                 way     channel payload
 *   HEARTBEAT            both    fast    0 u64 sent_ns (sender's clock), 8 u64 echo_ns (the last
 *                                        sent_ns heard, 0: none), 16 u64 held_ns (between hearing
 *                                        and echoing), 24 u64 consumed (P: input frames the PVM
 *                                        has taken), 32 u8 state, 33 u8 1: a primary, 34 u16
 *                                        zero, 36 u32 term (role.h)
 *   PROTECT              P -> S  fast    0 u32 memory MiB, 4 u8[192] key of the digests,
 *                                        196 char[] what the VM is (machine, CPU,
 *                                        version of QEMU ...), compared by S with its own
 *   READY                S -> P  fast    0 u32 flags: 1: S reads its VM's memory (AGREE in
 *                                        kvm/page_codec.h): the SVM's QEMU waits for the stream
 *   REFUSED              S -> P  fast    char[] why: S has no copy (any more) and will not speak
 *   STREAM               P -> S  bulk    bytes of the initial migration, in order
 *   STREAM_BACK          S -> P  bulk    bytes of the return path, in order
 *   RUNNING              S -> P  fast    empty: lineage 0 runs
 *   START                P -> S  fast    0 u64 input_cut: epoch 0 has begun (see CKPT_BEGIN)
 *   INPUT                P -> S  fast    0 u64 index, 8 u8[12] virtio_net_hdr_v1, 20 u32 the first
 *                                        lineage that is to hear it (older ones have, by another
 *                                        index: node_cut.c), 0: all, 24 u8[] frame
 *   FLOW_OPEN            P -> S  fast    see flow_open_pack()
 *   TS_LEAD              P -> S  fast    0 u32 ticks
 *   CKPT_BEGIN           P -> S  bulk    0 u64 size, 8 u64 input_cut: input frames with a smaller
 *                                        index are in this checkpoint, others are not, 16 u64
 *                                        flags: 1: the SVM is not to run from it
 *   CKPT_DATA            P -> S  bulk    a block, see kvm/page_codec.h; in order
 *   CKPT_END             P -> S  bulk    0 u8[16] XXH3-128 of all bytes that the blocks rebuild
 *   COMMITTED            S -> P  fast    0 u32 pages that came whole and that S compared with its
 *                                        VM's, 4 u32 those of them that were the same: C(epoch)
 *                                        is whole and verified
 *   LOADED               S -> P  fast    0 u64 load_ns: the SVM runs in this lineage; 0: the
 *                                        checkpoint is kept, the next one may come
 *   DIGEST               S -> P  fast    records of 56 or 84 bytes, see
 *                                        digest_pack()
 *   BROKEN               P -> S  fast    empty: input was lost for this lineage; nothing of it is
 *                                        compared until the next one
 *   HANDOVER             P -> S  fast    0 u64 input_cut: the PVM stands still for good and this
 *                                        side is silent; after C(epoch) the right to speak is S's
 *   TAKEN                S -> P  fast    empty: S speaks
 *   UNPROTECT            P -> S  fast    char[] why: P goes on alone; S gives its copy up
 *   ASK                  P -> S  fast    see ask_pack(): what has the SVM said, in the lineage of
 *                                        the header? Best effort, for `divergences` only
 *   SAID                 S -> P  fast    see said_pack(): the answer
 *   MAP                  P -> S  both    0 u32 entries in all, 4 u32 index of the first one here, 8
 *                                        n x 68 bytes, see map_entry_pack(): the mapping between
 *                                        clients and the PVM. On the fast channel before START; on
 *                                        the bulk channel between CKPT_BEGIN and CKPT_END, when it
 *                                        has changed since it was last sent
 *   CUT_ASK              P -> S  fast    see cut_ask_pack(): this range of the SVM's stream, in two
 *   CUT                  S -> P  fast    see cut_pack(): the answer. Best effort
 *   CKPT_HOLES           S -> P  fast    kvm/page_codec.h: the answer to a CKPT_DATA with AGREEs;
 *                                        one for each, in their order
 *   CKPT_FILL            P -> S  bulk    likewise: pages for the holes, in their order, before
 *                                        CKPT_END
 *   REPLAY               P -> S  bulk    what C(epoch) says again when it is taken over, in front
 *                                        of CKPT_END: 0 u32 released (as RELEASED says it; 0:
 *                                        nothing), 4 u32 zero, 8 frames, oldest first, each 0
 *                                        u8[12] virtio_net_hdr_v1, 12 u32 n, 16 u8[n]
 *   RELEASED             P -> S  fast    empty: what waited for the commits up to C(epoch) has
 *                                        left
 */

enum msg_type {
	MSG_HEARTBEAT = 16,
	MSG_PROTECT,
	MSG_READY,
	MSG_REFUSED,
	MSG_STREAM,
	MSG_STREAM_BACK,
	MSG_RUNNING,
	MSG_START,
	MSG_INPUT,
	MSG_FLOW_OPEN,
	MSG_TS_LEAD,
	MSG_CKPT_BEGIN,
	MSG_CKPT_DATA,
	MSG_CKPT_END,
	MSG_COMMITTED,
	MSG_LOADED,
	MSG_DIGEST,
	MSG_BROKEN,
	MSG_HANDOVER,
	MSG_TAKEN,
	MSG_UNPROTECT,
	MSG_ASK,
	MSG_SAID,
	MSG_MAP,
	MSG_CUT_ASK,
	MSG_CUT,
	MSG_CKPT_HOLES,
	MSG_CKPT_FILL,
	MSG_REPLAY,
	MSG_RELEASED,
	MSG_TYPE_END,
};

#define CKPT_KEEP_FLAG     1u
#define READY_READS_FLAG   1u
#define READY_WIRE_LEN     4u
#define COMMITTED_WIRE_LEN 8u
#define DIGEST_WIRE_LEN    56u
#define DIGEST_WIRE_MAX    84u
#define FLOW_OPEN_WIRE_LEN 32u
#define FLOW_OPEN_WIRE_MAX 60u
#define HEARTBEAT_WIRE_LEN 40u
#define INPUT_HEAD_LEN     24u
#define ASK_HEAD_LEN       8u
#define ASK_WIRE_MAX       (ASK_HEAD_LEN + DIGEST_WIRE_MAX)
#define SAID_HEAD_LEN      8u
#define SAID_PACKET_LEN    16u
#define SAID_WIRE_MAX      (SAID_HEAD_LEN + EVIDENCE_PACKETS * (SAID_PACKET_LEN + EVIDENCE_PACKET_MAX))
#define MAP_HEAD_LEN       8u
#define CUT_ASK_HEAD_LEN   8u
#define CUT_ASK_WIRE_MAX   (CUT_ASK_HEAD_LEN + DIGEST_WIRE_MAX)
#define CUT_HEAD_LEN       40u
#define CUT_WIRE_MAX       (CUT_HEAD_LEN + DIGEST_WIRE_MAX)
#define MAP_ENTRY_WIRE_LEN 68u
#define REPLAY_HEAD_LEN    8u
#define REPLAY_FRAME_LEN   16u
#define REPLAY_WIRE_MAX    (REPLAY_HEAD_LEN + 2 * (REPLAY_FRAME_LEN + FRAME_MAX_LEN))

const char *msg_type_name(uint8_t type);

struct heartbeat {
	uint64_t sent_ns;
	uint64_t echo_ns;
	uint64_t held_ns;
	uint64_t consumed;
	uint8_t state;
	bool primary;
	uint32_t term;
};

void heartbeat_pack(uint8_t out[HEARTBEAT_WIRE_LEN], const struct heartbeat *beat);
int heartbeat_unpack(struct heartbeat *ret_beat, const uint8_t *payload, size_t len);

/*
 * A flow key: 0 u32 vm_ip, 4 u32 peer_ip, 8 u16 vm_port, 10 u16 peer_port, 12 u8 proto, 13 u8 kind,
 * 14 u8 flags (bit 0: IPv6, bit 1: VLAN tags), 15 zero. With a flag the record that it begins is
 * followed by 28 bytes more: 0 u16[2] tags, 4 u32[3] vm_net, 16 u32[3] peer_net.
 */

/* 0 u8[16] flow key, 16 u8 kind, 17 u8 TCP flags, 18 u8 bit 0: has tsval, 19 zero, 20 u32 seq,
 * 24 u32 len, 28 u32 ack, 32 u32 tsval, 36 u8[16] hash, 52 zero. Of a multicast group (FLOW_GROUP)
 * the hash is a word (membership.h); the flow of an address's reports (FLOW_MEMBERSHIP) tells that
 * one was unclear. */
/* Returns the record's length. */
size_t digest_pack(uint8_t out[DIGEST_WIRE_MAX], const struct digest *digest);
/* Reads the first record. Returns its length, or -EPROTO. */
int digest_unpack(struct digest *ret_digest, const uint8_t *payload, size_t len);

/* 0 u8[16] flow key, 16 u32 iss, 20 u32 ack, 24 u32 tsval, 28 u8 bit 0: has ack, bit 1: has
 * tsval, 29 zero. */
size_t flow_open_pack(uint8_t out[FLOW_OPEN_WIRE_MAX], const struct flow_open *open);
int flow_open_unpack(struct flow_open *ret_open, const uint8_t *payload, size_t len);

/* 0 u8[16] flow key, 16 u32 seq_delta, 20 u32 ts_delta, 24 u32 iss, 28 u8 bit 0: has iss, bit 1:
 * FIN of the client's, bit 2: FIN of the VM's, bit 3: RST, bit 4: opening, 29 zero, 32 u32 tsval of
 * the VM's first SYN, 36 u32 that of its newest one, both while opening, 40 u8[28] the rest of a
 * wide flow key, of others zero. unpack: 0, or -EPROTO. */
void map_entry_pack(uint8_t out[MAP_ENTRY_WIRE_LEN], const struct natmap_entry *entry);
int map_entry_unpack(struct natmap_entry *ret_entry, const uint8_t in[MAP_ENTRY_WIRE_LEN]);
void map_head_pack(uint8_t out[MAP_HEAD_LEN], uint32_t total, uint32_t first);
/* 0, or -EPROTO; *ret_n entries follow the head. */
int map_head_unpack(uint32_t *ret_total, uint32_t *ret_first, uint32_t *ret_n,
                    const uint8_t *payload, size_t len);

/* The head of an INPUT message, frame->since included; the frame's bytes follow. */
void input_pack_head(uint8_t out[INPUT_HEAD_LEN], uint64_t index, const struct frame *frame);
/* A new frame from an INPUT message. 0, -EPROTO, -ENOMEM. */
int input_unpack(uint64_t *ret_index, struct frame **ret_frame, const uint8_t *payload, size_t len);

/*
 * The capabilities in HELLO: what a side can do with checkpoints. 0 u16 version of the encoding, 2
 * u16 zero, 4 u32 MiB of pages that it keeps, 8 u32 KiB of output that it keeps to say it again. A
 * later version may be longer.
 */
#define CODEC_VERSION  2u
#define CODEC_CAPS_LEN 12u

struct codec_caps {
	uint16_t version;
	uint64_t cache_bytes;  /* whole MiB */
	uint64_t replay_bytes; /* whole KiB */
};

void codec_caps_pack(uint8_t out[CODEC_CAPS_LEN], const struct codec_caps *caps);
int codec_caps_unpack(struct codec_caps *ret_caps, const uint8_t *payload, size_t len);

void ready_pack(uint8_t out[READY_WIRE_LEN], uint32_t flags);
int ready_unpack(uint32_t *ret_flags, const uint8_t *payload, size_t len);
void committed_pack(uint8_t out[COMMITTED_WIRE_LEN], uint32_t looked, uint32_t alike);
/* -EPROTO also when more were the same than were compared. */
int committed_unpack(uint32_t *ret_looked, uint32_t *ret_alike, const uint8_t *payload, size_t len);

/* 0 u32 id, 4 u8 kind (0: what this digest was made of, 1: the newest of its flow), 5 zero[3], 8 a
 * record as in DIGEST. Returns the length. */
size_t ask_pack(uint8_t out[ASK_WIRE_MAX], const struct ask *ask);
int ask_unpack(struct ask *ret_ask, const uint8_t *payload, size_t len);

/*
 * 0 u32 id of the ask, 4 u8 number of packets (0: gone, or never said), 5 zero[3], 8 the packets,
 * oldest first: 0 u64 age_ns (how long ago it was said), 8 u32 length as it was said, 12 u16 n, 14
 * u8 start (enum frame_start), 15 zero, 16 u8[n] what of it is told, in the PVM's numbers. Returns
 * the length.
 */
size_t said_pack(uint8_t out[SAID_WIRE_MAX], uint32_t id, const struct evidence_side *side);
/* at_ns of the packets is their age. ret_side is the caller's to clear. 0, -EPROTO, -ENOMEM. */
int said_unpack(uint32_t *ret_id, struct evidence_side *ret_side, const uint8_t *payload,
                size_t len);

/* 0 u32 at, the number to cut at, 4 zero[4], 8 a record as in DIGEST, which is to be cut. pack
 * returns the length, unpack 0 or -EPROTO; the hashes of the parts are zero. */
size_t cut_ask_pack(uint8_t out[CUT_ASK_WIRE_MAX], const struct digest *said, uint32_t at);
int cut_ask_unpack(struct digest_cut *ret_cut, const uint8_t *payload, size_t len);

/* 0 u32 at, 4 zero[4], 8 u8[16] hash in front of it, 24 u8[16] hash from there on, 40 the record
 * that was cut. */
size_t cut_pack(uint8_t out[CUT_WIRE_MAX], const struct digest_cut *cut);
int cut_unpack(struct digest_cut *ret_cut, const uint8_t *payload, size_t len);

/* REPLAY's head, and one frame behind it, of which pack returns the length. */
void replay_pack_head(uint8_t out[REPLAY_HEAD_LEN], uint32_t released);
int replay_unpack_head(uint32_t *ret_released, const uint8_t *payload, size_t len);
size_t replay_pack_frame(uint8_t *out, const struct frame *frame);
/* A new frame from what is left of the message. Returns the bytes that it took, or -EPROTO,
 * -ENOMEM.
 */
int replay_unpack_frame(struct frame **ret_frame, const uint8_t *payload, size_t len);

void u64_pack(uint8_t out[8], uint64_t value);
uint64_t u64_unpack(const uint8_t in[8]);

#endif
