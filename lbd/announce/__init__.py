"""Floor 4: VIP addresses on the interface, and their announcement by ARP and NDP."""
