//! A headless browser: Debian's Chromium, through its `WebDriver`.
//!
//! In: addresses, scripts, keys. Out: what the page is, and pictures of it. Must not: know a page.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use url::{ParseError, Url};

use crate::node::wait::{self, LIMIT, Look};
use crate::privilege::Need;

/// What a test with a browser needs: packages of Debian that `cargo xtask setup` installs.
pub const NEEDS: [Need; 2] = [Need::Program("chromium"), Need::Program("chromedriver")];

/// A running browser with one window.
#[derive(Debug)]
pub struct Browser {
    runtime: Runtime,
    client: Client,
    driver: Child,
}

/// A preference of the person before the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Dark text.
    Light,
    /// Light text.
    Dark,
}

impl Browser {
    /// Starts a browser with a window of this size, pixels.
    ///
    /// # Errors
    /// It does not start.
    pub fn start((width, height): (u32, u32)) -> Result<Self> {
        let mut driver = Command::new("chromedriver")
            .args(["--port=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting chromedriver")?;
        let stdout = driver.stdout.take().context("chromedriver has no output")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("starting the runtime")?;
        let connected = connect(stdout, &runtime);
        let client = match connected {
            Ok(client) => client,
            Err(error) => {
                driver.kill()?;
                driver.wait()?;
                return Err(error);
            }
        };
        let browser = Self { runtime, client, driver };
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        browser.devtools("Emulation.setDeviceMetricsOverride", &metrics)?;
        Ok(browser)
    }

    /// Opens an address.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn open(&self, url: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.client.goto(url))?)
    }

    /// The result of a script.
    ///
    /// # Errors
    /// It throws, or its result has another type.
    pub fn run<T: DeserializeOwned>(&self, script: &str) -> Result<T> {
        let value = self.runtime.block_on(self.client.execute(script, Vec::new()));
        let value = value.with_context(|| script.to_owned())?;
        serde_json::from_value(value).with_context(|| script.to_owned())
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    /// It stays false; the error has the text of the page.
    pub fn until(&self, expression: &str) -> Result<()> {
        let condition = format!("return Boolean({expression})");
        let waited = wait::until(expression, LIMIT, || {
            // A page that is being loaded has no document.
            let holds = self.run::<bool>(&condition);
            Ok(match holds {
                Ok(true) => Look::Done(()),
                Ok(false) => Look::NotYet("false".to_owned()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        });
        waited.with_context(|| {
            let text = self.run::<String>("return document.body.innerText");
            text.unwrap_or_else(|error| format!("{error:#}"))
        })
    }

    /// Presses and releases each key, such as `'\u{E015}'` (arrow down).
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn press(&self, keys: &[char]) -> Result<()> {
        let mut actions = KeyActions::new("keyboard".to_owned());
        for value in keys.iter().copied() {
            actions = actions.then(KeyAction::Down { value }).then(KeyAction::Up { value });
        }
        Ok(self.runtime.block_on(self.client.perform_actions(actions))?)
    }

    /// A picture of the window, as PNG.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn screenshot(&self) -> Result<Vec<u8>> {
        Ok(self.runtime.block_on(self.client.screenshot())?)
    }

    /// Sets whether the person prefers dark or light.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn prefer(&self, scheme: Scheme) -> Result<()> {
        let value = if scheme == Scheme::Dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": features })).map(drop)
    }

    /// Sets the folder of downloaded files.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn download_to(&self, folder: &Path) -> Result<()> {
        let params = json!({ "behavior": "allow", "downloadPath": folder });
        self.devtools("Browser.setDownloadBehavior", &params).map(drop)
    }

    /// The messages of the console since the last look: errors of scripts, and what a content security policy has blocked.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn console(&self) -> Result<Vec<String>> {
        let log = self.command("se/log", json!({ "type": "browser" }))?;
        let messages = log.as_array().into_iter().flatten();
        Ok(messages.filter_map(|of| Some(of.get("message")?.as_str()?.to_owned())).collect())
    }

    fn devtools(&self, name: &str, params: &Value) -> Result<Value> {
        self.command("goog/cdp/execute", json!({ "cmd": name, "params": params }))
    }

    fn command(&self, path: &'static str, body: Value) -> Result<Value> {
        let command = Extension { path, body };
        Ok(self.runtime.block_on(self.client.issue_cmd(command))?)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser when the session ends. Both are gone after the driver's end anyway.
        drop(self.runtime.block_on(self.client.clone().close()));
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}

/// Opens a session of the driver, which says on its output at which port it listens.
fn connect(stdout: impl std::io::Read, runtime: &Runtime) -> Result<Client> {
    let port = BufReader::new(stdout).lines().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse::<u16>().ok()
    });
    let port = port.context("chromedriver says no port")?;
    let capabilities = json!({
        "goog:loggingPrefs": { "browser": "ALL" },
        // The sandbox needs user namespaces, which a container may lack; the pages are ours.
        "goog:chromeOptions": { "args": ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-dev-shm-usage"] },
    });
    let capabilities = capabilities.as_object().cloned().context("no capabilities")?;
    let url = format!("http://127.0.0.1:{port}");
    runtime.block_on(async {
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let client = builder.capabilities(capabilities).connect(&url).await;
        client.context("starting chromium")
    })
}

/// A command of chromedriver that the standard does not have.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}
