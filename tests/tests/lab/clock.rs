//! The node's clock jumps: a machine that wakes up, or whose battery is dead until NTP comes. Clocks cannot be unshared
//! (`time_namespaces(7)` has none for `CLOCK_REALTIME`), so the daemon's C library tells it another time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use lab::http::get;
use lab::manifest::file;
use lab::{Protocol, Settings, wait};
use serde_json::{Value, json};

use crate::stage::{PORT, Stage, V4, WEB4};

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
/* Whole seconds that are added to the time of day, in a file that may change. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    static volatile long long *offset;
    if (!real) {
        int file = open(getenv("CLOCK_OFFSET"), O_RDONLY | O_CLOEXEC);
        offset = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
        real = dlsym(RTLD_NEXT, "clock_gettime");
    }
    int result = real(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) now->tv_sec += *offset;
    return result;
}
"#;

/// A daemon's time of day.
struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    fn new(folder: &Path) -> Self {
        let [source, library, offset] = ["clock.c", "clock.so", "offset"].map(|name| folder.join(name));
        std::fs::write(&source, SHIM).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl");
        let output = compiler.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let this = Self { library, offset };
        this.set(0);
        this
    }

    /// In place: the daemon looks at these bytes.
    fn set(&self, seconds: i64) {
        use std::os::unix::fs::FileExt as _;
        let file =
            std::fs::File::options().create(true).write(true).truncate(false).open(&self.offset).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![("LD_PRELOAD".to_owned(), text(&self.library)), ("CLOCK_OFFSET".to_owned(), text(&self.offset))]
    }
}

/// `web` with one endpoint, and what brought it about: now, by the true clock.
fn web(address: std::net::Ipv4Addr) -> String {
    let service = lab::manifest::Service::new("web", &[V4]).port("tcp", "TCP", 80).object();
    let mut slice = lab::manifest::Slice::v4("web-4", "web").port("tcp", "TCP", PORT).ready(address).object();
    let stamp = jiff::Timestamp::now();
    slice["metadata"]["annotations"] =
        json!({ "endpoints.kubernetes.io/last-change-trigger-time": stamp.to_string() });
    file(&[service, slice])
}

fn metric(stage: &Stage, name: &str) -> f64 {
    let text = get(stage.node.netns(), "127.0.0.1:10249".parse().unwrap(), "/metrics").unwrap().body;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

fn health(stage: &Stage) -> Value {
    let reply = get(stage.node.netns(), "127.0.0.1:10256".parse().unwrap(), "/healthz").unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json().unwrap()
}

#[test]
fn whatever_the_clock_says_changes_are_carried_out_and_probes_answer() {
    const YEARS: i64 = 365 * 86_400;
    let stage = Stage::new();
    let clock = Clock::new(stage.lab.folder());
    let backends = stage.backends(&["a", "b"]);
    stage.manifests.put("web.yaml", web(backends[0].pod.v4())).unwrap();
    let arguments = ["--iptables-sync-period=2s"];
    let settings = Settings { environment: clock.environment(), ..stage.settings().with(&arguments) };
    let daemon = stage.node.daemon(settings).unwrap();
    for (turn, offset) in [10 * YEARS, -20 * YEARS, 0, -3600, 86_400].into_iter().enumerate() {
        clock.set(offset);
        let backend = &backends[(turn + 1) % 2];
        stage.manifests.put("web.yaml", web(backend.pod.v4())).unwrap();
        wait::until("the change", Duration::from_secs(10), || {
            let answer = stage.client.call(Protocol::Tcp, WEB4)?;
            ensure!(answer.ok && answer.name == ["a", "b"][(turn + 1) % 2], "{answer:?}");
            Ok(())
        })
        .unwrap();
        let said = health(&stage)["currentTime"].to_string();
        let expected = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed() + offset;
        let year = jiff::Timestamp::from_second(expected).unwrap().to_string()[..4].to_owned();
        assert!(said.contains(&year), "it believes the clock it is given: {said}, not {year}");
        // Time has gone backwards for three of these: that is no time at all, not less.
        let sum = metric(&stage, "kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv4\"}");
        assert!(sum >= 0.0 && sum.is_finite(), "{sum}");
    }
    // Past the time after which silence would be a fault.
    std::thread::sleep(Duration::from_secs(5));
    health(&stage);
    daemon.no_errors().unwrap();
}
