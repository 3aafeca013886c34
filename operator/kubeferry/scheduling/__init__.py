"""The scheduling pass: filters, then weighers, over a snapshot of the nodes. Pure; Nova's FilterScheduler."""
