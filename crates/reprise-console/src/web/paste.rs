//! Commands that a host's administrator can paste: Linux, Windows, ESXi.
//!
//! No secret is in them: who pastes them puts it where `SECRET` stands.

use std::net::SocketAddr;

/// A system that attaches volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Linux,
    Windows,
    Esxi,
}

/// What is attached, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Attach {
    /// iSCSI name of the target.
    pub(crate) iqn: String,
    /// Address of the portal, without the port; IPv6 without brackets.
    pub(crate) address: String,
    pub(crate) port: u16,
    /// The CHAP name; none where nothing has to be proved.
    pub(crate) chap_user: Option<String>,
    /// The box's CHAP name, for mutual CHAP.
    pub(crate) mutual_user: Option<String>,
}

impl System {
    pub(crate) const ALL: [Self; 3] = [Self::Linux, Self::Windows, Self::Esxi];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Linux => "Linux (open-iscsi, as root)",
            Self::Windows => "Windows (PowerShell, as administrator)",
            Self::Esxi => "VMware ESXi (esxcli)",
        }
    }

    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Windows => "windows",
            Self::Esxi => "esxi",
        }
    }

    /// The commands, a line each.
    pub(crate) fn commands(self, a: &Attach) -> Vec<String> {
        match self {
            Self::Linux => linux(a),
            Self::Windows => windows(a),
            Self::Esxi => esxi(a),
        }
    }
}

/// The portal that a host should be told: the box's own, or where it listens on all addresses, what the browser came to.
pub(crate) fn portal(portal: &str, browser_host: &str) -> Option<(String, u16)> {
    let address: SocketAddr = portal.parse().ok()?;
    let ip = address.ip().to_canonical();
    let host = if ip.is_unspecified() {
        browser_host.trim_start_matches('[').trim_end_matches(']').to_owned()
    } else {
        ip.to_string()
    };
    (!host.is_empty()).then_some((host, address.port()))
}

/// One word for a POSIX shell, whatever it holds.
fn sh(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/,[]=@".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// One string for PowerShell, whatever it holds. It takes typographic quotes for quotes, too.
fn ps(word: &str) -> String {
    let mut out = String::from("'");
    for c in word.chars() {
        if matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}') {
            out.push(c);
        }
        out.push(c);
    }
    out.push('\'');
    out
}

impl Attach {
    fn host_port(&self) -> String {
        if self.address.contains(':') {
            format!("[{}]:{}", self.address, self.port)
        } else {
            format!("{}:{}", self.address, self.port)
        }
    }
}

fn linux(a: &Attach) -> Vec<String> {
    let node = format!("iscsiadm -m node -T {} -p {}", sh(&a.iqn), sh(&a.host_port()));
    let update = |name: &str, value: &str| format!("{node} -o update -n {name} -v {value}");
    let mut out = vec![format!("{node} -o new")];
    if let Some(user) = &a.chap_user {
        out.push(update("node.session.auth.authmethod", "CHAP"));
        out.push(update("node.session.auth.username", &sh(user)));
        out.push(update("node.session.auth.password", "'SECRET'"));
    }
    if let Some(user) = &a.mutual_user {
        out.push(update("node.session.auth.username_in", &sh(user)));
        out.push(update("node.session.auth.password_in", "'SECRET-OF-THE-BOX'"));
    }
    out.push(update("node.startup", "automatic"));
    out.push(format!("{node} --login"));
    out
}

fn windows(a: &Attach) -> Vec<String> {
    let mut auth = String::new();
    let mut out =
        vec!["Set-Service -Name MSiSCSI -StartupType Automatic".to_owned(), "Start-Service -Name MSiSCSI".to_owned()];
    if let Some(user) = &a.chap_user {
        let kind = if a.mutual_user.is_some() { "MUTUALCHAP" } else { "ONEWAYCHAP" };
        auth = format!(" -AuthenticationType {kind} -ChapUsername {} -ChapSecret 'SECRET'", ps(user));
    }
    if a.mutual_user.is_some() {
        out.push("Set-IscsiChapSecret -ChapSecret 'SECRET-OF-THE-BOX'".to_owned());
    }
    let portal = format!("-TargetPortalAddress {} -TargetPortalPortNumber {}", ps(&a.address), a.port);
    out.push(format!("New-IscsiTargetPortal {portal}{auth}"));
    out.push(format!("Connect-IscsiTarget -NodeAddress {} {portal} -IsPersistent $true{auth}", ps(&a.iqn)));
    out
}

fn esxi(a: &Attach) -> Vec<String> {
    let target = format!("--adapter=$HBA --address={} --name={}", sh(&a.host_port()), sh(&a.iqn));
    let chap = |direction: &str, user: &str, secret: &str| {
        format!(
            "esxcli iscsi adapter target portal auth chap set {target} --direction={direction} --level=required \
             --authname={} --secret='{secret}'",
            sh(user)
        )
    };
    let mut out = vec![
        "esxcli iscsi software set --enabled=true".to_owned(),
        "HBA=$(esxcli iscsi adapter list | awk '/iscsi_vmk/ {print $1; exit}')".to_owned(),
        format!("esxcli iscsi adapter discovery statictarget add {target}"),
    ];
    if let Some(user) = &a.chap_user {
        out.push(chap("uni", user, "SECRET"));
    }
    if let Some(user) = &a.mutual_user {
        out.push(chap("mutual", user, "SECRET-OF-THE-BOX"));
    }
    out.push("esxcli storage core adapter rescan --adapter=$HBA".to_owned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach() -> Attach {
        Attach {
            iqn: "iqn.2026-01.fr.reprise:lyon.pg".into(),
            address: "192.0.2.1".into(),
            port: 3260,
            chap_user: None,
            mutual_user: None,
        }
    }

    #[test]
    fn commands_are_what_the_three_systems_take() {
        let a = attach();
        assert_eq!(
            System::Linux.commands(&a),
            [
                "iscsiadm -m node -T iqn.2026-01.fr.reprise:lyon.pg -p 192.0.2.1:3260 -o new",
                "iscsiadm -m node -T iqn.2026-01.fr.reprise:lyon.pg -p 192.0.2.1:3260 -o update -n node.startup -v automatic",
                "iscsiadm -m node -T iqn.2026-01.fr.reprise:lyon.pg -p 192.0.2.1:3260 --login",
            ]
        );
        let chap = Attach {
            chap_user: Some("host".into()),
            mutual_user: Some("box".into()),
            address: "2001:db8::1".into(),
            ..a
        };
        assert!(
            System::Linux.commands(&chap).iter().any(|l| l.contains("-p [2001:db8::1]:3260") && l.ends_with("CHAP"))
        );
        assert!(
            System::Windows.commands(&chap).iter().any(|l| l.contains("MUTUALCHAP") && l.contains("'2001:db8::1'"))
        );
        assert_eq!(System::Esxi.commands(&chap).iter().filter(|l| l.contains("--direction=")).count(), 2);
    }

    #[test]
    fn what_a_name_holds_stays_one_word() {
        let nasty = "a'; rm -rf / #\u{2019}$(x)`y`";
        assert_eq!(sh(nasty), "'a'\\''; rm -rf / #\u{2019}$(x)`y`'");
        assert_eq!(ps(nasty), "'a''; rm -rf / #\u{2019}\u{2019}$(x)`y`'");
        assert_eq!(sh(""), "''");
        // A shell says what it takes the word for.
        let script = format!("printf %s {}", sh(nasty));
        let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), nasty);
        let a = Attach { chap_user: Some(nasty.into()), ..attach() };
        for line in System::Linux.commands(&a).iter().chain(&System::Esxi.commands(&a)) {
            let words = format!("set -- {}; printf %s\\\\n \"$@\"", line.replace("HBA=$(", "x=(").replace("x=(", "x "));
            if line.contains("authname") || line.contains("username") {
                let said =
                    std::process::Command::new("sh").env("HBA", "vmhba64").args(["-c", &words]).output().unwrap();
                let said = String::from_utf8(said.stdout).unwrap();
                assert!(said.contains(nasty), "{line}: {said}");
            }
        }
    }

    #[test]
    fn a_portal_on_all_addresses_is_where_the_browser_came() {
        assert_eq!(portal("0.0.0.0:3260", "box.example"), Some(("box.example".into(), 3260)));
        assert_eq!(portal("[::]:3260", "[2001:db8::1]"), Some(("2001:db8::1".into(), 3260)));
        assert_eq!(portal("192.0.2.9:3261", "box"), Some(("192.0.2.9".into(), 3261)));
        assert_eq!(portal("x", "box"), None);
        assert_eq!(portal("0.0.0.0:1", ""), None);
    }
}
