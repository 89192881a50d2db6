//! File descriptors that travel.
