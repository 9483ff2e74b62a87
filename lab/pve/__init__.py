"""The commands of a Proxmox VE node, over plain LXC and btrfs: `pct`, `pvesh`, `pvesm`, `pveversion`.

They accept what the real ones accept, as far as a build needs it, and refuse the rest in the same
words and with an exit status other than 0. What the real ones do was read in Proxmox's sources
(pve-container, pve-guest-common, pve-common) and seen in a transcript of a real node.
"""
