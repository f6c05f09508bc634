//! The link between two boxes: pairing, handshake, resume, credit, acks. Sans I/O.
