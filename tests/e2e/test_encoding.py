# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints in fewer bytes: what changed in a page, not the page (docs/checkpoint.md)."""

from registry import test
from support import MB, UNHURRIED, URL, check, merge, wait_for
from test_reprotect import cut, cut_and_return


def dirty(env, arg):
    env.run("http", "-n", 1, target=f"{URL}/dirty/{arg}")


def rewrite(env, mib):
    """The same bytes in both VMs, other ones each time."""
    env.run("http", "-n", 1, target=f"{URL}/rewrite/{mib}?alike=1")


def crossed(env, checkpoints):
    """What so many more checkpoints take: (stats before, stats after)."""
    before = env.stats()
    env.wait_checkpoints(before["checkpoints"]["total"] + checkpoints, 30)
    return before, env.stats()


def grown(before, after, *path):
    for name in path:
        before, after = before[name], after[name]
    return after - before


@test("encoding-words", both={"checkpoint": {"longest-epoch": 300}})
def encoding_words(env):
    """one word in each page of 32 MiB changes: a quarter of the bytes at most, then a power cut"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    dirty(env, "50?area=32")
    wait_for(lambda: env.stats()["queues"]["page_cache"]["now"] >= 32 * MB, 30,
             "the whole area is in the cache")
    before, _ = crossed(env, 6)
    # A guest on a busy machine dirties less in that time.
    wait_for(lambda: grown(before, env.stats(), "checkpoints", "plain_bytes", "total") > 16 * MB and
             grown(before, env.stats(), "encoding", "delta") > 4000, 30,
             "16 MB and 4,000 pages told by what changed")
    after = env.stats()
    plain = grown(before, after, "checkpoints", "plain_bytes", "total")
    sent = grown(before, after, "checkpoints", "bytes", "total")
    check(sent * 4 <= plain, f"{sent} bytes of {plain} crossed the link")
    env.fact(f"{sent / 1e3:.0f} of {plain / 1e3:.0f} kB crossed the link")
    kept = [env.stats(host)["queues"]["page_cache"] for host in ("primary", "secondary")]
    for host, cache in zip(("primary", "secondary"), kept):
        check(cache["now"] >= 32 * MB, f"{host}: {cache['now']} bytes in the cache")
        check(cache["high"] <= cache["limit"] == 64 << 20, f"{host}: {cache}")
    behind = env.stats("secondary")
    check(behind["checkpoints"]["catchup_us"]["count"] > 0, f"{behind['checkpoints']}")
    # The VM's memory and COLO's cache of it, as far as they are used.
    check(behind["memory"]["qemu"] > env.stats()["memory"]["qemu"] > 64 * MB, f"{behind['memory']}")
    env.cut()
    keep.more("requests", 50)
    env.stall(keep.stop().result())
    env.answers()


@test("encoding-unequal", both={"checkpoint": {"longest-epoch": 500}},
      primary={"checkpoint": {"page-cache": 16, "compression": "zstd", "encode-threads": 2}},
      secondary={"checkpoint": {"page-cache": 0, "compression": "none"}})
def encoding_unequal(env):
    """hosts that are configured unlike: no cache on one, threads on the other; then a power cut"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    dirty(env, "10?area=8")
    before, _ = crossed(env, 4)
    wait_for(lambda: grown(before, env.stats(), "encoding", "compressed") > 500, 30,
             "500 pages are compressed")
    after = env.stats()
    check(grown(before, after, "encoding", "delta") == 0, "no differences without a cache")
    check(after["checkpoints"]["encode_threads"] == 2, f"{after['checkpoints']}")
    check(after["queues"]["page_cache"] == {"now": 0, "high": 0, "limit": 0}, "no cache")
    sent = grown(before, after, "checkpoints", "bytes", "total")
    plain = grown(before, after, "checkpoints", "plain_bytes", "total")
    check(sent < plain, f"{sent} bytes of {plain} crossed the link")
    env.fact(f"{sent / 1e3:.0f} of {plain / 1e3:.0f} kB crossed the link")
    env.cut()
    keep.more("requests", 50)
    env.stall(keep.stop().result())
    env.answers()


@test("encoding-agreed", both=merge(UNHURRIED, {"checkpoint": {"agreeing-pages": "on"}}))
def encoding_agreed(env):
    """8 MiB that both VMs write alike cross the link as hashes, what they do not is asked for; a cut"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    before = env.stats()
    rewrite(env, 8)  # both have done it: the answer is compared
    env.checkpoint()
    after = env.stats()
    agreed = grown(before, after, "encoding", "agreed")
    env.fact(f"{agreed} pages agreed, {grown(before, after, 'encoding', 'holes')} asked for")
    check(agreed >= 1000, f"{agreed} pages agreed: {after['encoding']}")
    env.cut()
    keep.more("requests", 50)
    env.stall(keep.stop().result())
    env.answers()


@test("streams", both={"checkpoint": {"longest-epoch": 300, "compression": "none",
                                      "agreeing-pages": "off"},
                       "replication": {"streams": 3}},
      secondary={"replication": {"streams": 5}})
def streams(env):
    """checkpoints of 8 MiB go over three connections; power cuts of the primary, and of the survivor"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    for host in ("primary", "secondary"):
        check(env.stats(host)["link"]["streams"] == 3, f"{host}: {env.stats(host)['link']}")
    begun = env.stats()
    for _ in range(3):
        rewrite(env, 8)
        before, after = crossed(env, 1)
    sent = grown(begun, after, "checkpoints", "bytes", "total")
    check(sent > 16 * MB, f"{sent} bytes crossed the link")
    env.fact(f"{sent / 1e3:.0f} kB crossed the link")
    rewrite(env, 8)
    cut_and_return(env, "primary")  # with the checkpoint of these pages on its way, or not
    check(env.stats("secondary")["link"]["streams"] == 3, f"{env.stats('secondary')['link']}")
    keep.more("requests", 20)
    rewrite(env, 8)
    cut(env, "secondary")
    keep.more("requests", 20)
    env.stall(keep.stop().result())
    env.answers()
