//! Settings, status, commands, events and jobs of a box; the client.
