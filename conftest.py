"""The front door: which plugins make the suite."""

pytest_plugins = ["fixtures.build", "fixtures.recorder", "fixtures.sealing", "fixtures.report", "fixtures.verify"]
