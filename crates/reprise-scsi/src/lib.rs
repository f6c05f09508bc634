//! SCSI disk: commands, one opcode table, sense. No transport.
