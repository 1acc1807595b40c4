"""The threads of a process, and the captures and records that they exchange."""
