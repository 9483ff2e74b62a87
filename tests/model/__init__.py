"""A Proxmox VE node in memory, the other people who work on it, and the suite's own code run against it."""
