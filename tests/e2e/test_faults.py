# SPDX-License-Identifier: GPL-2.0-or-later
"""A few cells of the table of faults (faults.py, scripts/faults has them all): what was wrong once."""

import faults
from registry import Group, test
from support import check


def register(name):
    cell = faults.Cell(*name.split(":"))

    @test(f"fault-{name.replace(':', '/')}", Group(make=cell.make, start=lambda env: None))
    def run(env):
        cell.run(env)
        check(cell.result["ok"], f"{cell.result}")
        env.fact(f"{cell.result['outcome']}, expected {cell.want}")

    run.__doc__ = f"{cell.phase.__doc__}; {name.split(':')[1]}"


for one in faults.QUICK:
    register(one)
