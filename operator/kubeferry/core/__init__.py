"""The pure core: what to do next, decided from what was seen. No I/O, no clock, no random source."""
