//! An API server that has far more to say than a real one could on this machine: it lists some Services with a slice each, and then
//! tells of changes of the slices as fast as it is told to. It speaks the wire format of a watch (streamed lists, KEP-3157) and
//! nothing else; what an API server means is the real one's affair, in the ring `cluster`.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// How much it says, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Torrent {
    /// How many Services there are, with one slice each.
    pub services: u32,
    /// How many changes of slices come after the list.
    pub events: u32,
    /// In which time, if whoever listens is as fast.
    pub within: Duration,
}

/// The server. It serves until the process ends.
#[derive(Debug)]
pub struct Spring {
    address: SocketAddr,
    told: Arc<AtomicU32>,
    gate: Arc<AtomicU32>,
}

/// Changes come in bursts of so many.
const BURST: u32 = 100;

impl Torrent {
    /// Starts a server on a namespace's loopback. Changes wait for [`Spring::begin`].
    pub fn start(self, netns: &Netns) -> Result<Spring> {
        let listener =
            netns.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("could not listen"))?;
        let address = listener.local_addr()?;
        let (told, gate) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let spring = Spring { address, told: Arc::clone(&told), gate: Arc::clone(&gate) };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (told, gate) = (Arc::clone(&told), Arc::clone(&gate));
                // Whoever asks may go at any time.
                thread::spawn(move || drop(self.serve(stream, &told, &gate)));
            }
        });
        Ok(spring)
    }

    fn serve(self, mut stream: TcpStream, told: &AtomicU32, gate: &AtomicU32) -> Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().context("nothing was asked")??;
        for line in lines {
            if line?.is_empty() {
                break;
            }
        }
        let path = request.split([' ', '?']).nth(1).unwrap_or_default();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")?;
        let kind = match path {
            "/api/v1/services" => "Service",
            "/apis/discovery.k8s.io/v1/endpointslices" => "EndpointSlice",
            "/api/v1/nodes" => "Node",
            _ => "ServiceCIDR",
        };
        let mut list = String::new();
        for number in 0..self.services {
            match kind {
                "Service" => list.push_str(&event("ADDED", &service(number))),
                "EndpointSlice" => list.push_str(&event("ADDED", &slice(number, 0))),
                _ => {}
            }
        }
        list.push_str(&event("BOOKMARK", &bookmark(kind)));
        stream.write_all(list.as_bytes())?;
        if kind == "EndpointSlice" {
            self.pour(&mut stream, told, gate)?;
        }
        // Silence, until the other side has had enough.
        stream.set_read_timeout(None)?;
        drop(std::io::Read::read(&mut stream, &mut [0]));
        Ok(())
    }

    fn pour(self, stream: &mut TcpStream, told: &AtomicU32, gate: &AtomicU32) -> Result<()> {
        while gate.load(Ordering::SeqCst) == 0 {
            thread::sleep(Duration::from_millis(10));
        }
        let begun = Instant::now();
        for burst in 0..self.events / BURST {
            let numbers = burst * BURST..(burst + 1) * BURST;
            let text = numbers.fold(String::new(), |text, number| {
                text + &event("MODIFIED", &slice(number % self.services, number + 1))
            });
            thread::sleep((self.within * burst / (self.events / BURST)).saturating_sub(begun.elapsed()));
            stream.write_all(text.as_bytes())?;
            told.store((burst + 1) * BURST, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Spring {
    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\nusers: [{{name: u, user: {{}}}}]\n",
            self.address
        )
    }

    /// Lets the changes come.
    pub fn begin(&self) {
        self.gate.store(1, Ordering::SeqCst);
    }

    /// How many changes have been told so far. What the other side has not read yet counts up to what sockets hold.
    pub fn told(&self) -> u32 {
        self.told.load(Ordering::SeqCst)
    }
}

/// The endpoint of a Service's slice after its change of this number.
pub fn endpoint(change: u32) -> Ipv4Addr {
    let [_, high, middle, low] = change.to_be_bytes();
    Ipv4Addr::new(10, 100 + high, middle, low)
}

fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn service(number: u32) -> String {
    let [_, _, high, low] = number.to_be_bytes();
    let address = format!("10.97.{high}.{low}");
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{number}","namespace":"default","resourceVersion":"1"}},"spec":{{"type":"ClusterIP","clusterIP":"{address}","clusterIPs":["{address}"],"ipFamilies":["IPv4"],"ports":[{{"port":80,"protocol":"TCP"}}]}}}}"#
    )
}

fn slice(number: u32, change: u32) -> String {
    let mut text = format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"s{number}-x","namespace":"default","resourceVersion":"{}","labels":{{"kubernetes.io/service-name":"s{number}"}}}},"addressType":"IPv4","ports":[{{"name":"","port":8080,"protocol":"TCP"}}],"endpoints":["#,
        change + 1
    );
    let _ = write!(text, r#"{{"addresses":["{}"],"conditions":{{"ready":true}}}}]}}"#, endpoint(change));
    text
}

fn bookmark(kind: &str) -> String {
    let (version, rest) = match kind {
        "EndpointSlice" => ("discovery.k8s.io/v1", r#","addressType":"IPv4","endpoints":[]"#),
        "ServiceCIDR" => ("networking.k8s.io/v1", ""),
        _ => ("v1", ""),
    };
    format!(
        r#"{{"apiVersion":"{version}","kind":"{kind}","metadata":{{"resourceVersion":"1","annotations":{{"k8s.io/initial-events-end":"true"}}}}{rest}}}"#
    )
}
