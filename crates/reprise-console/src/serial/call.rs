//! What the console asks of the box: one table, from which the requests, their answers and the way there are made.

use reprise_api::*;

/// How much a command changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Nothing.
    Look,
    /// Nothing that lasts or that anybody else notices, such as showing a pairing code that expires.
    Harmless,
    /// Something: a person has to have typed a word for it.
    Change,
}

/// The box said no, or was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code, where the box answered.
    pub code: Option<ErrorCode>,
    /// What happened.
    pub message: String,
    /// What to do; may be empty.
    pub what_to_do: String,
}

impl Refusal {
    /// It as lines of a screen.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = super::text::wrap(&self.message, 2);
        if !self.what_to_do.is_empty() {
            lines.extend(super::text::wrap(&format!("What to do: {}", self.what_to_do), 2));
        }
        lines
    }
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        if let ClientError::Refused(error) = error {
            return Self { code: Some(error.code), message: error.message, what_to_do: error.what_to_do };
        }
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self { code: None, message, what_to_do: "wait a minute: the box starts its daemon again by itself".to_owned() }
    }
}

/// A command, and how its answer is found among all answers.
pub struct Ask<R> {
    pub(super) call: Call,
    pub(super) take: fn(Answer) -> Option<R>,
}

macro_rules! calls {
    ($($variant:ident $method:ident($req:ty) -> $resp:ty, $weight:ident;)*) => {
        /// A command of the API, with its request.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Call {
            $(#[doc = concat!("`", stringify!($method), "`.")] $variant($req),)*
        }

        /// What a command answered.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Answer {
            $(#[doc = concat!("Of `", stringify!($method), "`.")] $variant(Box<$resp>),)*
        }

        impl Call {
            /// How much it changes.
            pub fn weight(&self) -> Weight {
                match self { $(Self::$variant(_) => Weight::$weight,)* }
            }

            /// Its name in the API.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($method),)* }
            }

            /// Has the box do it.
            ///
            /// # Errors
            /// The box refuses or cannot be reached.
            pub async fn carry_out(self, client: &Client) -> Result<Answer, Refusal> {
                match self {
                    $(Self::$variant(request) => {
                        Ok(Answer::$variant(Box::new(client.$method(&request).await.map_err(Refusal::from)?)))
                    })*
                }
            }
        }

        $(pub(super) fn $method(request: $req) -> Ask<$resp> {
            Ask {
                call: Call::$variant(request),
                take: |answer| match answer {
                    Answer::$variant(it) => Some(*it),
                    _ => None,
                },
            }
        })*
    };
}

calls! {
    Status status(Nothing) -> Status, Look;
    SystemShow system_show(Nothing) -> SystemStatus, Look;
    NetworkSet system_network_set(NetworkSettings) -> Done, Change;
    NetworkKeep system_network_keep(Nothing) -> Done, Change;
    TimeSet system_time_set(TimeSet) -> Done, Change;
    NameSet system_name_set(NameSet) -> Done, Change;
    DiskTake system_disk_take(DiskTake) -> Done, Change;
    Logs system_logs(LogQuery) -> LogLines, Look;
    Support system_support(Nothing) -> SupportBundle, Harmless;
    Power system_power(Power) -> Done, Change;
    AdminCode admin_code(Nothing) -> AdminCode, Look;
    Password admin_password_reset(PasswordReset) -> AdminStatus, Change;
    SessionsEnd admin_sessions_end(Nothing) -> AdminStatus, Change;
    NotifyShow notify_show(Nothing) -> NotifySettings, Look;
    NotifySet notify_set(NotifySettings) -> NotifySettings, Change;
    NotifyTest notify_test(Nothing) -> NotifyTest, Change;
    PairStatus pair_status(Nothing) -> PairStatus, Look;
    PairListen pair_listen(PairListen) -> PairOffer, Harmless;
    PairDial pair_dial(PairDial) -> PairStatus, Change;
    PairCancel pair_cancel(Nothing) -> PairStatus, Harmless;
    PeerSet peer_set(PeerSet) -> PeerStatus, Change;
    PeerShare peer_share(PeerShareSet) -> PeerStatus, Change;
    VolumeCreate volume_create(VolumeCreate) -> VolumeStarted, Change;
    VolumeResize volume_resize(VolumeResize) -> VolumeStarted, Change;
    VolumeSet volume_set(VolumeSet) -> VolumeStatus, Change;
    VolumeAdopt volume_adopt(VolumeAdopt) -> VolumeStarted, Change;
    MirrorAdd mirror_add(MirrorOf) -> MirrorStarted, Change;
    MirrorPause mirror_pause(MirrorOf) -> Done, Change;
    MirrorResume mirror_resume(MirrorOf) -> Done, Change;
    InitiatorList initiator_list(Nothing) -> InitiatorList, Look;
    InitiatorAdd initiator_add(InitiatorAdd) -> InitiatorChanged, Change;
    InitiatorRemove initiator_remove(InitiatorRef) -> Done, Change;
    EventList event_list(EventQuery) -> EventList, Look;
    AlertAck alert_ack(ById) -> Alert, Change;
    Preview action_preview(PreviewRequest) -> Preview, Look;
    Confirm action_confirm(Confirm) -> ActionDone, Change;
}
