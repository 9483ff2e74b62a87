"""The front door: which plugins make the suite."""

pytest_plugins = [
    "fixtures.base.warning",
    "fixtures.base.interrupts",
    "fixtures.session.command_line",
    "fixtures.session.selection",
    "fixtures.session.gating",
    "fixtures.session.core_fixtures",
    "fixtures.session.server_fixtures",
    "fixtures.session.clone_fixtures",
    "fixtures.session.check_reports",
    "fixtures.report.recorder",
    "fixtures.session.internal_error",
    "fixtures.report.html",
    "fixtures.session.verification",
    "fixtures.session.family",
    "fixtures.report.ci",
    "fixtures.session.plan",
    "fixtures.report.progress",
    "fixtures.report.terminal",
    "fixtures.report.closing",
    "fixtures.session.node_process",
]
