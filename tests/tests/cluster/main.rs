//! Ring 3: the daemon against a real API server, under its own service account and the rules of `deploy/`.

mod access;
mod arrive;
mod container;
mod dataplanes;
mod deploy;
mod differential;
mod docs;
mod events;
mod flaky;
mod generated;
mod health;
mod node;
mod outage;
mod plane;
mod pods;
mod stage;
mod stories;
mod switch;
