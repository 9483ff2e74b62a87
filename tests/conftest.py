"""How all tests are run."""

from hypothesis import settings

# a slow moment of the machine is no failure of what is tested
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")
