"""The front door: which plugins make the suite."""

pytest_plugins = ["fixtures.build", "fixtures.sealing", "fixtures.recorder", "fixtures.report", "fixtures.verify"]
