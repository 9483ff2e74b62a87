"""The suite as an installed package: the console script, and below `suite/` what a checkout has at its top."""
