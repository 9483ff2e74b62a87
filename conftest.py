"""The front door: which plugins make the suite."""

pytest_plugins = [
    "fixtures.blocking",
    "fixtures.given",
    "fixtures.serving",
    "fixtures.recorder",
    "fixtures.sealing",
    "fixtures.report",
    "fixtures.verify",
    "fixtures.command_line",  # last, as pytest calls its hooks before those of the others
]
