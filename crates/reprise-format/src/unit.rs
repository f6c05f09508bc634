//! What a logical unit remembers: the payload of a reservation record, and a field of the superblock. See `docs/formats.md`.

use bytes::Bytes;
use prost::Message;
use reprise_types::{
    InitiatorPort, PoolBuf, Registration, Reservation, ReservationType, SECTOR_END_MAX, SectorCount, UnitState,
};

use crate::FormatError;

/// A payload is a multiple of this.
const GRAIN: usize = 512;
/// Length of the body, in front of it.
const LEN: usize = 4;

/// A registered nexus.
#[derive(Clone, PartialEq, Message)]
pub struct RegistrationBody {
    /// SCSI initiator port name.
    #[prost(string, tag = "1")]
    pub port: String,
    /// RELATIVE TARGET PORT IDENTIFIER.
    #[prost(uint32, tag = "2")]
    pub relative_port: u32,
    /// Reservation key.
    #[prost(fixed64, tag = "3")]
    pub key: u64,
}

/// State of a unit.
#[derive(Clone, PartialEq, Message)]
pub struct UnitBody {
    /// Registrations.
    #[prost(message, repeated, tag = "1")]
    pub registrations: Vec<RegistrationBody>,
    /// TYPE of the reservation; 0 for none.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// Port name of its holder.
    #[prost(string, tag = "3")]
    pub holder: String,
    /// Saved SWP.
    #[prost(bool, tag = "4")]
    pub software_write_protect: bool,
}

/// As it stands in the superblock.
pub fn to_body(state: &UnitState) -> UnitBody {
    let registration = |r: &Registration| RegistrationBody {
        port: r.port.to_string(),
        relative_port: r.relative_port.into(),
        key: r.key,
    };
    UnitBody {
        registrations: state.registrations.iter().map(registration).collect(),
        kind: state.reservation.as_ref().map_or(0, |held| held.kind as u32),
        holder: state.reservation.as_ref().map_or(String::new(), |held| held.holder.to_string()),
        software_write_protect: state.software_write_protect,
    }
}

/// From the superblock.
///
/// # Errors
/// A field out of range; a holder of a single-holder type that is not registered.
pub fn from_body(body: &UnitBody) -> Result<UnitState, FormatError> {
    let wrong = |field, value| FormatError::Field { what: "unit state", field, value };
    if body.registrations.len() > UnitState::REGISTRATIONS_MAX {
        return Err(wrong("registrations", body.registrations.len() as u64));
    }
    // No name of a session moves the cursor of a screen that shows it.
    if let Some(bad) = body.registrations.iter().find(|r| r.port.chars().any(char::is_control)) {
        return Err(wrong("port", bad.port.len() as u64));
    }
    let registration = |r: &RegistrationBody| {
        let relative_port =
            u16::try_from(r.relative_port).map_err(|_| wrong("relative_port", r.relative_port.into()))?;
        Ok(Registration { port: InitiatorPort::from_raw(&r.port), relative_port, key: r.key })
    };
    let registrations = body.registrations.iter().map(registration).collect::<Result<Vec<_>, FormatError>>()?;
    let reservation = match body.kind {
        0 => None,
        kind => {
            let code = u8::try_from(kind).map_err(|_| wrong("kind", kind.into()))?;
            let kind = ReservationType::from_code(code).ok_or_else(|| wrong("kind", code.into()))?;
            let holder = InitiatorPort::from_raw(&body.holder);
            if !registrations.iter().any(|r| r.port == holder) {
                return Err(wrong("holder", 0));
            }
            Some(Reservation { kind, holder })
        }
    };
    Ok(UnitState { registrations, reservation, software_write_protect: body.software_write_protect })
}

/// As the payload of a record.
pub fn to_payload(state: &UnitState) -> Bytes {
    let body = to_body(state).encode_to_vec();
    let mut out = PoolBuf::unpooled((LEN + body.len()).next_multiple_of(GRAIN));
    out[..LEN].copy_from_slice(&(body.len() as u32).to_le_bytes());
    out[LEN..LEN + body.len()].copy_from_slice(&body);
    out.freeze()
}

/// From the payload of a record.
///
/// # Errors
/// As [`from_body`]; a length or body that does not decode.
pub fn from_payload(payload: &[u8]) -> Result<UnitState, FormatError> {
    let short = || FormatError::Short { what: "unit state", need: LEN, have: payload.len() };
    let (len, rest) = payload.split_first_chunk::<LEN>().ok_or_else(short)?;
    let len = u32::from_le_bytes(*len);
    let wrong = || FormatError::Field { what: "unit state", field: "length", value: len.into() };
    let body = rest.get(..usize::try_from(len).map_err(|_| wrong())?).ok_or_else(wrong)?;
    from_body(&UnitBody::decode(body).map_err(|_| wrong())?)
}

/// The size of a volume as the payload of a record.
pub fn size_payload(sectors: SectorCount) -> Bytes {
    let mut out = PoolBuf::unpooled(GRAIN);
    out[..8].copy_from_slice(&sectors.get().to_le_bytes());
    out.freeze()
}

/// From the payload of a record.
///
/// # Errors
/// Too short, 0, or more than a volume may have.
pub fn size_of_payload(payload: &[u8]) -> Result<SectorCount, FormatError> {
    let short = || FormatError::Short { what: "size of a volume", need: 8, have: payload.len() };
    let sectors = u64::from_le_bytes(*payload.first_chunk::<8>().ok_or_else(short)?);
    if sectors == 0 || sectors > SECTOR_END_MAX {
        return Err(FormatError::Field { what: "size of a volume", field: "sectors", value: sectors });
    }
    Ok(SectorCount::from_raw(sectors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_and_nonsense_does_not() {
        let port = InitiatorPort::new("iqn.2026-01.invalid.example:host", [1, 2, 3, 4, 5, 6]);
        let state = UnitState {
            registrations: vec![Registration { port: port.clone(), relative_port: 7, key: u64::MAX }],
            reservation: Some(Reservation { kind: ReservationType::ExclusiveAccessAllRegistrants, holder: port }),
            software_write_protect: true,
        };
        for state in [state.clone(), UnitState::default()] {
            let payload = to_payload(&state);
            assert!(payload.len().is_multiple_of(512));
            assert_eq!(from_payload(&payload).unwrap(), state);
        }
        let mut body = to_body(&state);
        body.kind = 2;
        assert!(from_body(&body).is_err());
        body.kind = 1;
        body.holder.clear();
        assert!(from_body(&body).is_err());
        let mut body = to_body(&UnitState { reservation: None, ..state });
        body.registrations[0].port = "iqn.x\nforged".to_owned();
        assert!(from_body(&body).is_err());
        let size = SectorCount::from_raw(4096);
        assert_eq!(size_of_payload(&size_payload(size)).unwrap(), size);
        assert!(size_of_payload(&[0; 512]).is_err() && size_of_payload(&[1]).is_err());
        assert!(size_of_payload(&size_payload(SectorCount::from_raw(SECTOR_END_MAX))).is_ok());
        assert!(size_of_payload(&size_payload(SectorCount::from_raw(SECTOR_END_MAX + 1))).is_err());
        assert!(from_payload(&[]).is_err());
        assert!(from_payload(&[255; 512]).is_err());
    }
}
