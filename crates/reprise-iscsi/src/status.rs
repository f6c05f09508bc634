//! Status-Class and Status-Detail of a login response (RFC 7143, section 11.13.5).

pub(crate) const MOVED_TEMPORARILY: u16 = 0x0101;
pub(crate) const MOVED_PERMANENTLY: u16 = 0x0102;
pub(crate) const INITIATOR_ERROR: u16 = 0x0200;
pub(crate) const AUTHENTICATION_FAILED: u16 = 0x0201;
pub(crate) const FORBIDDEN: u16 = 0x0202;
pub(crate) const NOT_FOUND: u16 = 0x0203;
pub(crate) const UNSUPPORTED_VERSION: u16 = 0x0205;
pub(crate) const MISSING_PARAMETER: u16 = 0x0207;
pub(crate) const UNSUPPORTED_SESSION_TYPE: u16 = 0x0209;
pub(crate) const NO_SESSION: u16 = 0x020a;
pub(crate) const INVALID_REQUEST: u16 = 0x020b;
pub(crate) const SERVICE_UNAVAILABLE: u16 = 0x0301;
