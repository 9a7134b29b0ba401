# SPDX-License-Identifier: GPL-2.0-or-later
"""comparator = qemu and none: what the daemon does when it holds nothing itself."""

import lab as lab_module
from pair import LINK_PORT
from registry import test
from support import GUEST_MAC, PATIENCE, check, wait_for

STOCK = {"checkpoint": {"comparator": "qemu"}}
PRIMARY = f"{lab_module.REPLICATION_IP['primary']}:{LINK_PORT}"
STOCK_ENDS = {"primary": {"replication": {"listen": PRIMARY}},
              "secondary": {"replication": {"peer": PRIMARY}}}


def up(env):
    """The guest boots first: under TCG an SVM does not see new code without our relay."""
    env.pair.start("primary")
    env.wait_guest()
    env.pair.start("secondary")
    env.pair.wait_protected(30)


def port_of(env, host):
    """What the tap of the VM is a port of, "" for nothing."""
    line = env.lab.run(host, ["ip", "-o", "link", "show", "vm0"]).stdout
    return line.split(" master ")[1].split()[0] if " master " in line else ""


@test("stock-cut", both=STOCK, down=True, **STOCK_ENDS)
def stock_cut(env):
    """QEMU's comparator: checkpoints are counted, and the secondary takes over after a power cut"""
    up(env)
    check(env.status("primary")["comparator"] == "qemu", "status says which comparator")
    env.run("http", "-n", 20, "-c", 2)
    before = env.stats()["checkpoints"]
    env.pair.checkpoint()
    wait_for(lambda: env.checkpoints("command") > before["cause"]["command"], 10, "a checkpoint")
    check(env.stats()["checkpoints"]["pause_us"]["count"] > before["pause_us"]["count"],
          "its pause is counted")
    check(port_of(env, "secondary") == "", "the SVM's tap is on no bridge before the takeover")
    env.lab.power_cut("primary")
    env.wait_state("secondary", "unprotected", 15)
    check(port_of(env, "secondary") == "br0", "the tap is a port of the bridge")
    env.answers()


@test("stock-secondary-dies", both=STOCK, down=True, **STOCK_ENDS)
def stock_secondary_dies(env):
    """QEMU's comparator: the primary goes on alone, and a new secondary joins"""
    up(env)
    env.lab.power_cut("secondary")
    env.wait_state("primary", "unprotected", 15)
    env.answers()
    env.lab.power_on("secondary")
    env.pair.start("secondary")
    env.pair.wait_protected(30)
    check(env.checkpoints("initial") == 2, "protected twice")
    # What is not compared waits 3 s for colo-compare's own timeout, each time.
    env.run("http", "-n", 30)


@test("stock-join-fails", both=STOCK, down=True, primary=STOCK_ENDS["primary"],
      secondary={**STOCK_ENDS["secondary"], "vm": {"memory": 300}})
def stock_join_fails(env):
    """QEMU's comparator: a secondary with another VM is refused, and nothing is held back"""
    env.pair.start("primary")
    env.wait_guest()
    env.pair.start("secondary")
    env.said("secondary", "the VM is another one here", 20)
    env.answers()
    check(env.state("primary") in ("unprotected", "joining"), "not protected")


@test("unprotected", both={"checkpoint": {"comparator": "none"}}, down=True)
def unprotected(env):
    """comparator = none: the VM speaks on its bridge, there is no link, `stop` ends it"""
    env.pair.start("primary")
    env.wait_guest()
    env.answers()
    check(port_of(env, "primary") == "br0", f"the tap of {GUEST_MAC} is a port of the bridge")
    check(env.status("primary")["comparator"] == "none", "status says that nothing compares")
    listening = env.lab.run("primary", ["ss", "-Htln"]).stdout
    check(not listening.strip(), f"nothing listens on TCP: {listening}")
    env.pair.cli("primary", "stop")
    check(env.daemon("primary").wait(PATIENCE) == 0, "the daemon ends well")
