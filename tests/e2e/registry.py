# SPDX-License-Identifier: GPL-2.0-or-later
"""Which tests there are, and which of them share a protected VM."""

from support import Env

TESTS = []


class Group:
    """Tests on one pair, in the order of the file. @make makes the Env, @start brings it up."""

    def __init__(self, make=Env, start=lambda env: env.up()):
        self.make, self.start = make, start


class Test:
    def __init__(self, name, function, group, args):
        self.name, self.function, self.group, self.args = name, function, group, args
        self.about = (function.__doc__ or "").strip().split("\n")[0]


def test(name, group=None, args=(), down=False, **env):
    """Registers a function as a test, on @group's pair or on one of its own, made with @env;
    @down: the test brings that up itself."""
    def register(function):
        own = group or Group(make=lambda: Env(**env),
                             start=(lambda env: None) if down else (lambda env: env.up()))
        TESTS.append(Test(name, function, own, args))
        return function

    return register
