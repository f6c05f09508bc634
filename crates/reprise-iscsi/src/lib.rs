//! iSCSI (RFC 7143): PDUs, login, sessions. Sans I/O; carries reprise-scsi.
