"""A Proxmox-like node on one Linux machine: real containers, real images, a simulated GPU."""
