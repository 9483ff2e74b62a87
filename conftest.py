"""The front door: which plugins make the suite."""

pytest_plugins = [
    "fixtures.command_line",
    "fixtures.interrupts",
    "fixtures.selection",
    "fixtures.blocking",
    "fixtures.given",
    "fixtures.foresight",
    "fixtures.ahead",
    "fixtures.serving",
    "fixtures.tidy",
    "fixtures.acceptance",
    "fixtures.waiving",
    "fixtures.recorder",
    "fixtures.diagnosis",
    "fixtures.sealing",
    "fixtures.report",
    "fixtures.verify",
    "fixtures.ci",
    "fixtures.plan",
    "fixtures.progress",
]
