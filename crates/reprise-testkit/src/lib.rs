//! Development only: a small iSCSI initiator, a TCP relay, a write logger and exact-prefix checker.
