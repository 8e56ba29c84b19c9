//! How to reach the API server: by the kubeconfig, by `--master`, or by the pod's service account.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::settings::Effective;

/// How long a connection to the API server may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `--master` counts before the address in the kubeconfig; without both, this is a pod.
pub async fn client(effective: &Effective) -> anyhow::Result<Config> {
    let mut config = match (&effective.kubeconfig, &effective.master) {
        (Some(path), _) => from_file(path).await?,
        (None, Some(master)) => {
            Config::new(address(master, false).parse().with_context(|| format!("--master {master}"))?)
        }
        (None, None) => Config::incluster().context(
            "this is not a pod with a service account; name a source with --source or --kubeconfig",
        )?,
    };
    if let Some(master) = &effective.master {
        let address = address(master, is_secured(&config));
        config.cluster_url = address.parse().with_context(|| format!("--master {master}"))?;
    }
    // Shorter than the time after which a silent watch counts as well again.
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    keep_secrets(&mut config)?;
    Ok(config)
}

async fn from_file(path: &Path) -> anyhow::Result<Config> {
    let file = Kubeconfig::read_from(path).map_err(|error| unreadable(path, error))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    config.with_context(|| format!("could not use {}", path.display()))
}

/// The parser's own words show lines of the file, and those may hold keys and tokens.
fn unreadable(path: &Path, error: KubeconfigError) -> anyhow::Error {
    if let KubeconfigError::Parse(error) = error {
        let line = error.location().map(|place| place.line()).filter(|line| *line > 0);
        let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
        return anyhow!("{}{line}: not the YAML of a kubeconfig", path.display());
    }
    anyhow::Error::new(error).context(format!("could not read {}", path.display()))
}

/// As in Kubernetes' own clients, an address without a scheme is one for TLS where something is known about certificates.
fn address(master: &str, secured: bool) -> String {
    match (master.contains("://"), secured) {
        (true, _) => master.to_owned(),
        (false, true) => format!("https://{master}"),
        (false, false) => format!("http://{master}"),
    }
}

fn is_secured(config: &Config) -> bool {
    config.root_cert.is_some()
        || config.root_cert_file.is_some()
        || config.accept_invalid_certs
        || config.auth_info.client_certificate.is_some()
        || config.auth_info.client_certificate_data.is_some()
}

/// Without TLS nobody is told a secret. At a loopback address (`kubectl proxy`) none is needed; elsewhere the server would
/// only refuse us, so it is better said here.
fn keep_secrets(config: &mut Config) -> anyhow::Result<()> {
    if config.cluster_url.scheme_str() == Some("https") || !has_secret(&config.auth_info) {
        return Ok(());
    }
    if !is_loopback(config.cluster_url.host().unwrap_or_default()) {
        bail!(
            "{} is not encrypted, and the kubeconfig's credentials are never sent in clear; write https:// (--master, or \
             `server` in the kubeconfig)",
            config.cluster_url
        );
    }
    let auth = &mut config.auth_info;
    (auth.username, auth.password, auth.token, auth.token_file) = (None, None, None, None);
    (auth.auth_provider, auth.exec) = (None, None);
    Ok(())
}

/// A client certificate is of no use without TLS, and is not sent.
fn has_secret(auth: &AuthInfo) -> bool {
    auth.username.is_some()
        || auth.password.is_some()
        || auth.token.is_some()
        || auth.token_file.is_some()
        || auth.auth_provider.is_some()
        || auth.exec.is_some()
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::effective;
    use super::client;
    use crate::settings::Flags;
    use crate::settings::value::Value;

    /// A certificate authority that is read but trusted by nobody.
    const CA: &str = "certificate-authority-data: \
                      LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBQUEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";
    const SKIP: &str = "insecure-skip-tls-verify: true";
    const TOKEN: &str = "token: hush";

    fn kubeconfig(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("sluice-client-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn text(server: &str, cluster: &str, user: &str) -> String {
        format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: \"{server}\", {cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    /// The address, whether a token goes with it, or the error.
    async fn reached(master: &str, path: Option<&Path>) -> String {
        let path = path.map(|path| ("kubeconfig", path.display().to_string()));
        let master = (!master.is_empty()).then(|| ("master", master.to_owned()));
        let flags: Flags =
            path.into_iter().chain(master).map(|(name, text)| (name, Value::Text(text))).collect();
        match client(&effective(None, &flags).unwrap()).await {
            Ok(config) if config.auth_info.token.is_some() => format!("{} with token", config.cluster_url),
            Ok(config) => config.cluster_url.to_string(),
            Err(error) => format!("{error:#}"),
        }
    }

    async fn check(name: &str, master: &str, file: &str, expected: &str) {
        let path = kubeconfig(name, file);
        let found = reached(master, Some(&path)).await;
        std::fs::remove_file(path).unwrap();
        assert!(found.starts_with(expected), "{name}: {found}");
        assert!(!found.contains("hush"), "{name}: {found}");
    }

    #[tokio::test]
    async fn a_master_without_a_scheme_has_tls_where_the_kubeconfig_speaks_of_certificates() {
        let (server, master) = ("https://other:1", "10.0.0.1:6443");
        check("ca", master, &text(server, CA, TOKEN), "https://10.0.0.1:6443/ with token").await;
        check("skip", master, &text(server, SKIP, TOKEN), "https://10.0.0.1:6443/ with token").await;
        let certificate = "client-certificate: /c, client-key: /k";
        check("certificate", master, &text(server, "", certificate), "https://10.0.0.1:6443/").await;
        check("nothing", master, &text(server, "", ""), "http://10.0.0.1:6443/").await;
        check("scheme", "https://a:1", &text(server, "", TOKEN), "https://a:1/ with token").await;
        check("none", "", &text(server, "", TOKEN), "https://other:1/ with token").await;
        assert_eq!(reached("10.0.0.1:80", None).await, "http://10.0.0.1:80/");
    }

    #[tokio::test]
    async fn nobody_is_told_a_secret_in_clear() {
        let refused = "http://10.0.0.1:80/ is not encrypted";
        check("bare", "10.0.0.1:80", &text("https://other", "", TOKEN), refused).await;
        check("plain", "http://10.0.0.1:80", &text("https://other", CA, TOKEN), refused).await;
        check("upper", "HTTP://10.0.0.1:80", &text("https://other", CA, TOKEN), refused).await;
        check("server", "", &text("http://10.0.0.1:80", CA, TOKEN), refused).await;
        check("file", "", &text("http://10.0.0.1:80", "", "tokenFile: /t"), refused).await;
        check("name", "", &text("http://10.0.0.1:80", "", "username: a, password: hush"), refused).await;
        for (name, at) in [("v4", "127.0.0.1:80"), ("v6", "[::1]:80"), ("named", "localhost:80")] {
            check(name, at, &text("https://other", "", TOKEN), &format!("http://{at}/")).await;
            assert!(!reached(at, None).await.contains("token"), "{name}");
        }
    }

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_read_is_named_and_not_shown() {
        for (name, text) in [
            ("list", "users:\n- name: u\n  user: {token: [hush]}\n"),
            ("text", "users: hush\n"),
            ("broken", "current-context: c\nusers: [{token: hush\n  - hush: }"),
        ] {
            let path = kubeconfig(name, text);
            let found = reached("", Some(&path)).await;
            std::fs::remove_file(&path).unwrap();
            assert!(found.starts_with(&format!("{}, line ", path.display())), "{found}");
            assert!(found.ends_with(": not the YAML of a kubeconfig"), "{found}");
        }
        assert!(reached("", Some(Path::new("/does/not/exist"))).await.contains("/does/not/exist"));
    }
}
