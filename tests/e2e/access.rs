//! Who gets at a box: other users of its machine, strangers in a browser, and somebody with a cookie or a token of another.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::ports;

use crate::boxes::{Appliance, BoxPlan, until};
use crate::images::text;
use crate::{Part, Setup};

const MIB: u64 = 1 << 20;

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    vec![
        Part { name: "files of a box", outcome: files(setup).await },
        Part { name: "first password and sessions", outcome: browsers(setup).await },
    ]
}

fn walk(path: &Path, found: &mut Vec<(PathBuf, u32)>) -> Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    found.push((path.to_owned(), meta.permissions().mode() & 0o777));
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).with_context(|| format!("read {}", path.display()))? {
            walk(&entry?.path(), found)?;
        }
    }
    Ok(())
}

/// What the box has made: all in its folder that this test has not put there.
fn made_by(a: &Appliance) -> Result<Vec<(PathBuf, u32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&a.dir)? {
        let entry = entry?;
        if !["box.toml", "log", "faults"].iter().any(|ours| entry.file_name() == *ours) {
            walk(&entry.path(), &mut found)?;
        }
    }
    Ok(found)
}

fn closed(a: &Appliance) -> Result<usize> {
    let found = made_by(a)?;
    let open = found.iter().filter(|(_, mode)| mode & 0o077 != 0);
    let open: Vec<_> = open.map(|(path, mode)| format!("{} {mode:o}", path.display())).collect();
    ensure!(open.is_empty(), "other users have rights: {open:?}");
    Ok(found.len())
}

/// Volumes, cache, keys, control store and socket are for the user the box runs as. What an earlier release left open is
/// closed at the next start; an image that somebody lent keeps its mode.
async fn files(setup: &Setup) -> Result<String> {
    let lent = setup.dir.join("lent.raw");
    std::fs::File::create(&lent)?.set_len(16 * MIB)?;
    std::fs::set_permissions(&lent, PermissionsExt::from_mode(0o644))?;
    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "closed", size: "1G" })?;
    a.add_settings("https = \"127.0.0.1:0\"")?;
    a.run().await?;
    a.done("/api/v1/volumes", json!({ "name": "full", "group": "main", "size": 16 * MIB })).await?;
    a.done("/api/v1/volumes", json!({ "name": "thin", "group": "main", "size": 16 * MIB, "thin": true })).await?;
    a.done("/api/v1/volumes/adopt", json!({ "name": "lent", "group": "lent", "path": text(&lent)? })).await?;
    a.done("/api/v1/tokens", json!({ "label": "t", "rights": "admin" })).await?;
    a.done("/api/v1/admin/password/reset", json!({ "new": "correct horse" })).await?;
    a.done("/api/v1/admin/sessions/end", json!({})).await?;
    let count = closed(&a)?;
    let homes = a.homes("main").await?;
    ensure!(homes.iter().all(|home| home.starts_with(&a.dir)), "{homes:?}");
    a.stop()?;
    for (path, mode) in made_by(&a)? {
        // As a umask of 022 leaves it. The state's folder was always closed.
        if path.starts_with(a.dir.join("pool")) {
            std::fs::set_permissions(
                &path,
                PermissionsExt::from_mode(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6),
            )?;
        }
    }
    ensure!(closed(&a).is_err(), "nothing was opened");
    a.run().await?;
    until("the volumes are back", async || {
        Ok(a.group("main").await?["volumes"]
            .as_array()
            .is_some_and(|v| v.iter().all(|v| v["state"]["kind"] == "ready")))
    })
    .await?;
    closed(&a)?;
    ensure!(std::fs::metadata(&lent)?.permissions().mode() & 0o777 == 0o644, "the mode of a lent image changed");
    a.stop()?;
    Ok(format!("{count} files and folders, none open to others, also after all were opened by hand"))
}

/// `reprise web` beside a box.
struct Web {
    process: Child,
    port: u16,
    /// What the box's certificate is checked with.
    cert: PathBuf,
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = (self.process.kill(), self.process.wait());
    }
}

impl Web {
    fn start(setup: &Setup, a: &Appliance) -> Result<Self> {
        let port = ports::free()?.port();
        let (cert, key) = (a.dir.join("state/https-cert.pem"), a.dir.join("state/https-key.pem"));
        let log = std::fs::File::create(a.dir.join("web.log"))?;
        let mut command = Command::new(&setup.reprise);
        command.arg("web").arg("--socket").arg(a.socket()).args(["--listen", &format!("127.0.0.1:{port}")]);
        command.arg("--cert").arg(&cert).arg("--key").arg(&key);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { process: command.spawn().context("start the web console")?, port, cert })
    }
}

/// What came of a request.
#[derive(Debug)]
struct Came {
    status: u16,
    location: String,
    body: String,
}

impl Came {
    fn is_login(&self) -> bool {
        self.status == 303 && self.location.contains("/login")
    }
}

/// curl, which checks the certificate.
fn curl(cert: &Path, port: u16, path: &str, args: &[&str]) -> Result<Came> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code} %{redirect_url}"]);
    command.args(["--cacert", text(cert)?, "--resolve", &format!("localhost:{port}:127.0.0.1")]).args(args);
    let out = command.arg(format!("https://localhost:{port}{path}")).output().context("start curl")?;
    ensure!(out.status.success(), "curl {path}: {}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8(out.stdout)?;
    let (body, last) = said.rsplit_once('\n').context("status of the answer")?;
    let (status, location) = last.split_once(' ').context("where the answer leads")?;
    Ok(Came { status: status.parse()?, location: location.to_owned(), body: body.to_owned() })
}

/// A browser: its cookies lie in a file.
struct Browser<'a> {
    web: &'a Web,
    jar: PathBuf,
}

impl Browser<'_> {
    fn get(&self, path: &str) -> Result<Came> {
        let jar = text(&self.jar)?;
        curl(&self.web.cert, self.web.port, path, &["--cookie", jar, "--cookie-jar", jar])
    }

    /// Sends the form of a page, with its token.
    fn post(&self, page: &str, fields: &[(&str, &str)]) -> Result<Came> {
        let shown = self.get(page)?;
        let token = ["form", "csrf"].iter().find_map(|name| {
            let (_, rest) = shown.body.split_once(&format!("name=\"{name}\" value=\""))?;
            Some((*name, rest.split('"').next()?.to_owned()))
        });
        let (name, token) = token.with_context(|| format!("{page} has no form: {shown:?}"))?;
        let (jar, origin) = (text(&self.jar)?, format!("Origin: https://localhost:{}", self.web.port));
        let mut args =
            vec!["--cookie".to_owned(), jar.into(), "--cookie-jar".into(), jar.into(), "--header".into(), origin];
        for (name, value) in fields.iter().copied().chain([(name, token.as_str())]) {
            args.extend(["--data-urlencode".to_owned(), format!("{name}={value}")]);
        }
        curl(&self.web.cert, self.web.port, page, &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn first(&self, code: &str, password: &str) -> Result<Came> {
        self.post("/login/first", &[("code", code), ("new", password), ("again", password)])
    }

    fn log_in(&self, password: &str) -> Result<Came> {
        self.post("/login", &[("password", password)])
    }

    fn is_in(&self) -> Result<bool> {
        let came = self.get("/hosts")?;
        ensure!(came.status == 200 || came.is_login(), "{came:?}");
        Ok(came.status == 200)
    }
}

const FIRST: &str = "correct horse battery";
const SECOND: &str = "set at the serial console";

/// The first password needs the code that the box shows, also after a reset of its settings; a new password, wherever it is
/// set, ends the sessions of the old one; and no token stands for having the box in hands.
async fn browsers(setup: &Setup) -> Result<String> {
    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "asked", size: "1G" })?;
    a.add_settings("https = \"127.0.0.1:0\"")?;
    a.run().await?;
    let web = Web::start(setup, &a)?;
    let browser = |name: &str| Browser { web: &web, jar: setup.dir.join(format!("{name}.cookies")) };
    let (stranger, owner, taken) = (browser("stranger"), browser("owner"), browser("taken"));
    until("the web console answers", async || Ok(stranger.get("/login")?.status == 200)).await?;
    let set = async |a: &Appliance| Ok::<_, anyhow::Error>(a.get("/api/v1/admin").await?.body["password_set"] == true);
    for code in ["000-000-000", "x", ""] {
        let came = stranger.first(code, "evil evil evil")?;
        ensure!((400..500).contains(&came.status), "code {code:?}: {came:?}");
    }
    ensure!(!stranger.is_in()? && !set(&a).await?, "a stranger has set the password");
    no_token_stands_for_the_box(&a).await?;
    ensure!(!set(&a).await?, "a token has set the password");

    let code = code(&a)?.context("no code is shown while there is no password")?;
    let came = owner.first(&code, FIRST)?;
    ensure!(came.status == 303 && owner.is_in()?, "the right code: {came:?}");
    ensure!(self::code(&a)?.is_none(), "a code is shown although a password is set");
    let came = stranger.first(&code, "evil evil evil")?;
    ensure!(came.status == 401 && !stranger.is_in()?, "a code that was used: {came:?}");

    ensure!(taken.log_in(FIRST)?.status == 303 && taken.is_in()?, "a second login");
    a.done("/api/v1/admin/password/reset", json!({ "new": SECOND })).await?;
    for (who, one) in [("the owner", &owner), ("the taken cookie", &taken)] {
        ensure!(!one.is_in()?, "{who} is in after the password was set on the box");
    }
    ensure!(taken.log_in(FIRST)?.status == 401 && owner.log_in(SECOND)?.status == 303, "logins with old and new");
    // A change in a browser ends all but its own; the command line ends that, too.
    ensure!(taken.log_in(SECOND)?.status == 303, "a second login");
    let fields = [("current", SECOND), ("new", FIRST), ("again", FIRST)];
    ensure!(owner.post("/settings/password", &fields)?.status == 303, "the change in a browser");
    ensure!(owner.is_in()? && !taken.is_in()?, "a change in a browser ends the other sessions and keeps its own");
    ensure!(a.cli(&["password", "end-sessions"])?.status.success() && !owner.is_in()?, "the end of all sessions");

    // A reset of the settings takes the password away and leaves the data.
    ensure!(owner.log_in(FIRST)?.status == 303, "a login before the reset");
    a.stop()?;
    std::fs::remove_file(a.dir.join("state/admin.json"))?;
    a.run().await?;
    ensure!(!owner.is_in()? && !set(&a).await?, "a session goes on after the reset");
    let came = stranger.first(&code, "evil evil evil")?;
    ensure!(came.status == 401 && !set(&a).await?, "the code of before the reset: {came:?}");
    let again = self::code(&a)?.context("no code is shown after the reset")?;
    ensure!(
        again != code && owner.first(&again, FIRST)?.status == 303 && owner.is_in()?,
        "the code of after the reset"
    );
    a.stop()?;
    Ok("strangers, used codes, old cookies and tokens are refused; the code of the console and the owner are not"
        .into())
}

/// The code for the first password, by the command line.
fn code(a: &Appliance) -> Result<Option<String>> {
    let out = a.cli(&["password", "code"])?;
    ensure!(out.status.success(), "password code: {}", String::from_utf8_lossy(&out.stderr));
    let said: Value = serde_json::from_slice(&out.stdout)?;
    Ok(said["code"].as_str().map(str::to_owned))
}

/// An administrator's token that leaks must not become a password that outlives it.
async fn no_token_stands_for_the_box(a: &Appliance) -> Result<()> {
    let made = a.done("/api/v1/tokens", json!({ "label": "t", "rights": "admin" })).await?;
    let header = format!("Authorization: Bearer {}", made["token"].as_str().context("token")?);
    until("HTTPS is served", async || Ok(a.status().await?["box"]["endpoints"]["https"].is_string())).await?;
    let status = a.status().await?;
    let url = status["box"]["endpoints"]["https"].as_str().context("https")?;
    let port = url.rsplit(':').next().context("port")?.parse()?;
    let cert = a.dir.join("state/https-cert.pem");
    for (path, body, expected) in [
        ("/api/v1/status", None, 200),
        ("/api/v1/admin/code", None, 403),
        ("/api/v1/admin/password/reset", Some(json!({ "new": "evil evil evil" })), 403),
        ("/api/v1/admin/password", Some(json!({ "new": "evil evil evil" })), 401),
        ("/api/v1/admin/password", Some(json!({ "new": "evil evil evil", "code": "000-000-000" })), 401),
        ("/api/v1/admin/password", Some(json!({ "new": "evil evil evil", "at_the_box": true })), 400),
    ] {
        let text = body.as_ref().map(Value::to_string);
        let mut args = vec!["--header", header.as_str()];
        if let Some(text) = &text {
            args.extend(["--header", "Content-Type: application/json", "--data", text]);
        }
        let came = curl(&cert, port, path, &args)?;
        ensure!(came.status == expected, "{path} {body:?} with a token: {came:?}");
    }
    Ok(())
}
