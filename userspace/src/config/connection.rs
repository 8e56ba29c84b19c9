//! A client of the API server that finds out when the server has vanished.
//!
//! kube's own client waits for a watch that says nothing as long as the server may keep silent: five minutes. A server, or
//! a load balancer before it, that dies without a word (a machine lost, a firewall that has forgotten the connection) would
//! leave this node with old endpoints for so long. So the kernel asks the other side, and gives the connection up in time;
//! client-go's health check of HTTP/2 (`http2ReadIdleTimeout`, `http2PingTimeout`) takes 45 seconds for the same.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

use super::pace::Paced;

/// A connection is asked about after it has been silent for so long.
const SILENCE: Duration = Duration::from_secs(15);
/// How often it is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// So many questions without an answer end it.
const QUESTIONS: u32 = 3;
/// What is sent and not acknowledged for so long ends it, too (RFC 5482).
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// A client for what `config` says.
pub fn connect(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        // It says that proxies are not supported.
        return Client::try_from(config);
    }
    let secured = config.rustls_https_connector_with_connector(watchful())?;
    let mut connector = TimeoutConnector::new(secured);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_write_timeout(config.write_timeout);
    let client = hyper_util::client::legacy::Builder::new(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(Paced::new(client));
    Ok(Client::new(service, config.default_namespace))
}

fn watchful() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(SILENCE));
    connector.set_keepalive_interval(Some(AGAIN));
    connector.set_keepalive_retries(Some(QUESTIONS));
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    connector
}
