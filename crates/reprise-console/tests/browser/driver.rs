//! Chromium by its driver, and a page in it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::http::Method;
use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::WAIT;
use crate::boxes::free_port;

/// The driver. It ends with the test, and its browsers with it.
pub(crate) struct Driver {
    process: Child,
    address: String,
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Its browsers are of its group.
        let group = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.process.wait();
    }
}

/// A command that Chromium's driver has beyond the standard.
#[derive(Debug)]
struct Extra {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extra {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

impl Driver {
    /// # Panics
    /// Chromium's driver is not installed: a test that is left out proves nothing.
    pub(crate) fn start() -> Self {
        let port = free_port("127.0.0.1");
        let process = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start chromedriver; cargo xtask setup installs it");
        Self { process, address: format!("http://127.0.0.1:{port}") }
    }

    /// A browser with nothing in it that looks at `url`.
    pub(crate) async fn browser(&self, url: &str, script: bool) -> Page {
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--window-size=1280,900",
            // No page may need anything from elsewhere.
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE 127.0.0.2",
        ];
        let settings =
            if script { json!({}) } else { json!({"profile.managed_default_content_settings.javascript": 2}) };
        let wanted = json!({
            "acceptInsecureCerts": true,
            "goog:chromeOptions": {"args": args, "prefs": settings},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let Value::Object(wanted) = wanted else { unreachable!() };
        let begun = Instant::now();
        let client = loop {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            match builder.capabilities(wanted.clone()).connect(&self.address).await {
                Ok(client) => break client,
                Err(error) => assert!(begun.elapsed() < WAIT, "no browser: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        Page { client, url: url.to_owned() }
    }
}

/// A page of one box.
pub(crate) struct Page {
    client: Client,
    url: String,
}

impl Page {
    pub(crate) async fn go(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.url)).await.unwrap();
    }

    pub(crate) async fn url(&self) -> String {
        self.client.current_url().await.unwrap().to_string()
    }

    /// Runs a piece of script; gives text.
    pub(crate) async fn js(&self, script: &str) -> String {
        match self.client.execute(script, Vec::new()).await.unwrap() {
            Value::String(text) => text,
            other => other.to_string(),
        }
    }

    /// Waits until the script says true.
    pub(crate) async fn until(&self, what: &str, script: &str) {
        let begun = Instant::now();
        // A page on its way to the next one runs no script.
        while !matches!(self.client.execute(script, Vec::new()).await, Ok(Value::Bool(true))) {
            if begun.elapsed() > WAIT {
                panic!("{what} does not come at {}: {}", self.url().await, self.text("body").await);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) async fn text(&self, css: &str) -> String {
        let begun = Instant::now();
        loop {
            let text = match self.client.find(Locator::Css(css)).await {
                Ok(element) => element.text().await,
                Err(error) => Err(error),
            };
            match text {
                Ok(text) => return text,
                // The page may be on its way to the next one.
                Err(error) if begun.elapsed() > WAIT => panic!("{css}: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Waits until an element says so, also where no script runs.
    pub(crate) async fn says(&self, css: &str, part: &str) {
        let begun = Instant::now();
        loop {
            let text = self.text(css).await;
            if text.contains(part) {
                return;
            }
            assert!(begun.elapsed() < WAIT, "{css} does not say {part:?}: {text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) async fn fill(&self, css: &str, text: &str) {
        let field = self.client.find(Locator::Css(css)).await.unwrap_or_else(|e| panic!("{css}: {e}"));
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    pub(crate) async fn click(&self, css: &str) {
        let element = self.client.find(Locator::Css(css)).await.unwrap_or_else(|e| panic!("{css}: {e}"));
        element.click().await.unwrap_or_else(|e| panic!("{css}: {e}"));
    }

    /// Presses and releases a key, wherever the focus is.
    pub(crate) async fn press(&self, key: &str) {
        let mut actions = KeyActions::new("keyboard".to_owned());
        for value in key.chars() {
            actions = actions.then(KeyAction::Down { value }).then(KeyAction::Up { value });
        }
        self.client.perform_actions(actions).await.unwrap();
    }

    /// Types where the focus is.
    pub(crate) async fn keys(&self, text: &str) {
        self.press(text).await;
    }

    /// Presses Tab until the focus is there. Every stop on the way must be seen to have it.
    pub(crate) async fn tab_to(&self, css: &str) {
        let there = format!("return document.activeElement.matches({})", json!(css));
        let seen = "const e = document.activeElement; if (e === document.body) return true; \
                    const s = getComputedStyle(e); return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2";
        for _ in 0..60 {
            if self.js(&there).await == "true" {
                return;
            }
            self.press("\u{e004}").await;
            let where_ = "return document.activeElement.outerHTML.slice(0, 200)";
            assert_eq!(self.js(seen).await, "true", "the focus is not seen at {}", self.js(where_).await);
        }
        panic!("{css} cannot be reached with the keyboard at {}", self.url().await);
    }

    async fn extra(&self, path: &'static str, body: Value) -> Value {
        self.client.issue_cmd(Extra { path, body }).await.unwrap()
    }

    async fn devtools(&self, command: &str, params: Value) {
        self.extra("goog/cdp/execute", json!({"cmd": command, "params": params})).await;
    }

    pub(crate) async fn scheme(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    pub(crate) async fn wide(&self) {
        let size = json!({"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    pub(crate) async fn phone(&self) {
        let size = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// A picture of the whole page.
    pub(crate) async fn picture(&self) -> String {
        let body = json!({"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": true, "format": "png"}});
        let answer = self.extra("goog/cdp/execute", body).await;
        answer["data"].as_str().unwrap().to_owned()
    }

    async fn log(&self) -> Vec<String> {
        let entries = self.extra("se/log", json!({"type": "browser"})).await;
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter(|e| e["level"] != "INFO" && e["level"] != "DEBUG")
            .map(|e| e["message"].to_string())
            .collect()
    }

    /// The browser has nothing to complain about: no script that failed, nothing the policy refused.
    pub(crate) async fn no_errors(&self) {
        let log = self.log().await;
        assert!(log.is_empty(), "{log:#?}");
    }

    /// As [`Self::no_errors`], but for what has `expected` in it.
    pub(crate) async fn forget_errors(&self, expected: &str) {
        let mut log = self.log().await;
        log.retain(|line| !line.contains(expected));
        assert!(log.is_empty(), "{log:#?}");
    }

    pub(crate) async fn close(self) {
        self.client.close().await.unwrap();
    }
}
