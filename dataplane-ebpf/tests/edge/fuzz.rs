//! Hostile packets, many of them: made from those of flows that are under way, and made worse again and again. More of them for
//! as many seconds as the variable says: `cargo xtask fuzz --seconds 60`.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use dataplane_ebpf::abi::{Address, FORWARD, MASQUERADE};
use dataplane_ebpf::datapath::edge::header::Header;
use dataplane_ebpf::datapath::edge::{
    Frame, Step, Verdict, Way, again, back, egress, error, fragment, ingress, open, recall, send,
};
use dataplane_ebpf::host_edge::HostPacket;

use crate::mutate::{Dice, mend, mutate};
use crate::packet::{
    self, ACK, ETHERNET, FIN, ICMP, ICMPV6, SYN, TCP, UDP, errors, header_bytes, icmp, protocol, word,
};
use crate::world::Who::{Client, Here, Near, Node, Quiet, Router, Stranger, There, Twin, Vip};
use crate::world::{HOP, KINDS, Kind, World};

/// For how many seconds the fuzzer runs.
const SECONDS: &str = "SLUICE_FUZZ_SECONDS";
/// So many rounds at least, each with so many packets.
const ROUNDS: u64 = 300;
const PACKETS: usize = 200;
/// Packets from which others are made.
const POOL: usize = 64;

/// A packet that minds who writes where nobody has read.
struct Watched {
    packet: HostPacket,
    read: RefCell<Vec<bool>>,
}

impl Watched {
    fn new(packet: HostPacket) -> Self {
        let read = RefCell::new(vec![false; packet.bytes.len()]);
        Self { packet, read }
    }
}

impl Frame for Watched {
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        let words = self.packet.words(at)?;
        self.read.borrow_mut()[at..at + 4 * N].fill(true);
        Some(words)
    }

    fn put<const N: usize>(&mut self, at: usize, words: &[u32; N]) {
        // Hardware addresses are before the first word that anybody reads.
        let was_read = at == 0 || self.read.borrow()[at..at + 4 * N].iter().all(|read| *read);
        assert!(was_read && at + 4 * N <= self.packet.bytes.len(), "{} bytes at {at} were not read", 4 * N);
        self.packet.put(at, words);
    }

    fn mend(&mut self, at: usize, addresses: u32, rest: u32, zero_is_none: bool) {
        assert!(at + 2 <= self.packet.bytes.len(), "there is no checksum at {at}");
        self.packet.mend(at, addresses, rest, zero_is_none);
    }

    fn is_foreign(&self) -> bool {
        self.packet.is_foreign()
    }

    fn way(&self, header: &Header) -> Way {
        self.packet.way(header)
    }

    fn fits(&self, device: u32) -> bool {
        self.packet.fits(device)
    }

    fn leave(&mut self, device: u32, known: bool) {
        self.packet.leave(device, known);
    }

    fn leads(&self, header: &Header, from: &Address, to: &Address) -> Option<u32> {
        self.packet.leads(header, from, to)
    }
}

/// A round: a world, and packets that come from one another.
struct Round {
    world: World,
    dice: Dice,
    pool: Vec<Vec<u8>>,
    /// How often each verdict was given.
    given: [u64; 4],
    /// How often an answer was sent back.
    answered: u64,
}

impl Round {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let kind = *dice.pick(&KINDS);
        let redirect = dice.below(3) != 0;
        let mut world = (if redirect { World::new } else { World::stack })(kind, &[Here, There, Near]);
        world.rules(Node, FORWARD | MASQUERADE);
        world.at = if dice.below(4) == 0 { 0 } else { ETHERNET };
        world.way = *dice.pick(&[Way::To(HOP), Way::To(HOP), Way::Ask(HOP.device), Way::Stack]);
        if dice.below(4) == 0 {
            world.stick(60);
        }
        let pool = seeds(kind);
        Self { world, dice, pool, given: [0; 4], answered: 0 }
    }

    fn run(&mut self) {
        for _ in 0..PACKETS {
            let mut ip = self.dice.pick(&self.pool).clone();
            let other = self.dice.pick(&self.pool).clone();
            for _ in 0..*self.dice.pick(&[0, 0, 1, 1, 2, 4]) {
                mutate(&mut self.dice, &mut ip, &other);
            }
            // Half of them with right sums and lengths, which get further.
            if self.dice.below(2) == 0 {
                mend(&mut ip);
            }
            ip.truncate(400);
            let out = self.dice.below(3) == 0;
            self.each(&ip);
            self.pass(&ip, out);
            if self.dice.below(50) == 0 {
                self.change();
            }
        }
    }

    /// Each function over the packet, as if it were the first, in tables that are thrown away.
    fn each(&mut self, ip: &[u8]) {
        let (tables, at) = (self.world.tables.clone(), self.world.at);
        let before = self.packet(ip);
        // Messages are told from others before.
        let is_message = |ip: &[u8]| matches!((protocol(ip), header_bytes(ip)), (ICMP, 20) | (ICMPV6, 40));
        let is_fragment = ingress(&mut before.clone(), &tables, at) == Step::Fragment;
        let deeds: &[u8] = match ip.len() >= 20 && is_message(ip) {
            true => &[0, 1, 2, 3, 8, 9, 10, 4, 5, 11],
            false if is_fragment => &[0, 1, 2, 3, 8, 9, 10, 6, 7],
            false => &[0, 1, 2, 3, 8, 9, 10],
        };
        for number in deeds {
            let mut watched = Watched::new(before.clone());
            let frame = &mut watched;
            let verdict = match number {
                0 => done(ingress(frame, &tables, at)),
                1 => done(open(frame, &tables, at)),
                2 => send(frame, &tables, at),
                3 => done(egress(frame, &tables, at)),
                4 => error::incoming(frame, &tables, at),
                5 => error::outgoing(frame, &tables, at),
                6 => fragment::incoming(frame, &tables, at),
                7 => fragment::outgoing(frame, &tables, at),
                8 => done(again(frame, &tables, at)),
                9 => done(back(frame, &tables, at)),
                10 => done(recall(frame, &tables, at)),
                _ => error::answering(frame, &tables, at),
            };
            check(&before, &watched.packet, verdict, at);
        }
    }

    /// All steps, as the programs go through them.
    fn pass(&mut self, ip: &[u8], out: bool) {
        let (tables, at, before) = (&self.world.tables, self.world.at, self.packet(ip));
        let mut after = before.clone();
        let verdict = if out { tables.go_out(&mut after, at) } else { tables.come_in(&mut after, at) };
        check(&before, &after, verdict, at);
        self.given[verdict as usize] += 1;
        if matches!(verdict, Verdict::Passed | Verdict::Redirected) {
            let new = after.bytes[at..].to_vec();
            self.mirror(ip, &new);
            let place = self.dice.below(POOL);
            if self.pool.len() < POOL {
                self.pool.push(new);
            } else {
                self.pool[place] = new;
            }
        }
    }

    /// What the receiver answers comes back to the sender as from whom it had asked.
    fn mirror(&mut self, old: &[u8], new: &[u8]) {
        let kind = self.world.kind;
        let is_cut = header_bytes(new) == 20 && word(new, 6) & 0x3fff != 0;
        if is_cut || !matches!(protocol(new), TCP | UDP) || header_bytes(new) != if kind.v6 { 40 } else { 20 }
        {
            return;
        }
        let ((asked, named), (from, to)) = (packet::ends(old), packet::ends(new));
        let answer =
            if protocol(new) == TCP { packet::tcp(to, from, ACK, b"?") } else { packet::udp(to, from, b"?") };
        // An endpoint here answers by way of the node, another one from outside; the client answers from outside.
        let from_outside =
            from.ip() == kind.ip(Node) || ![Here, Near].iter().any(|who| kind.ip(*who) == to.ip());
        // In tables of its own: an answer is no part of the round.
        let tables = self.world.tables.clone();
        let (at, mut back) = (self.world.at, self.packet(&answer));
        let verdict = if from_outside { tables.come_in(&mut back, at) } else { tables.go_out(&mut back, at) };
        if matches!(verdict, Verdict::Passed | Verdict::Redirected) {
            assert_eq!(packet::ends(&back.bytes[at..]), (named, asked), "{old:02x?}\n{new:02x?}");
            assert_eq!(errors(&back.bytes[at..]).map(|error| error.unwrap_or(0)), [0, 0]);
            self.answered += 1;
        } else {
            // Whoever lost its way loses its answers, too.
            assert!(!matches!(self.world.way, Way::To(_)) || at == 0, "{verdict:?} {old:02x?}\n{new:02x?}");
        }
    }

    fn packet(&self, ip: &[u8]) -> HostPacket {
        self.world.wrapped(ip)
    }

    /// Something changes on the node.
    fn change(&mut self) {
        let generation = 2 + self.dice.below(1000) as u32;
        match self.dice.below(5) {
            0 => self.world.list(generation, &[There, Near], &[Here]),
            1 => self.world.list(generation, &[Here, There, Near], &[]),
            2 => self.world.tables.epoch.set(generation),
            3 => self.world.tables.seconds.set(self.world.tables.seconds.get() + 1),
            _ => self.world.tables.random.set(self.dice.next() as u32),
        }
    }
}

/// The number of a round, which is said when it fails.
struct Number(u64);

impl Drop for Number {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in round {}", self.0);
        }
    }
}

fn done(step: Step) -> Verdict {
    match step {
        Step::Done(verdict) => verdict,
        Step::Recall | Step::Begin | Step::Again | Step::Open | Step::Send | Step::Error | Step::Fragment => {
            Verdict::Left
        }
    }
}

/// Packets of flows of each sort, their answers, and messages about them.
fn seeds(kind: Kind) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for protocol in [TCP, UDP] {
        let kind = Kind { protocol, ..kind };
        for port in 4000..4004 {
            for to in [(Vip, 80), (Twin, 80), (Node, 80), (Quiet, 80)] {
                all.push(kind.first((Client, port), to));
                all.push(kind.packet((Stranger, port), to, if port == 4000 { FIN | ACK } else { SYN }));
            }
        }
        for endpoint in [Here, There, Near] {
            let answer = kind.next((endpoint, 8080), (Client, 4000));
            let asked = kind.next((Client, 4000), (endpoint, 8080));
            let code = if kind.v6 { 1 } else { 3 };
            all.push(icmp(kind.ip(endpoint), kind.ip(Client), code, 1, &asked));
            all.push(icmp(kind.ip(Router), kind.ip(Vip), code, 4, &kind.next((Vip, 80), (Client, 4000))));
            // Bytes behind a message that quotes little look as if they were quoted.
            let short = icmp(kind.ip(endpoint), kind.ip(Client), code, 1, &asked[..header_bytes(&asked) + 8]);
            all.push([short, vec![0x5a; 24]].concat());
            all.push(answer);
            all.push(kind.next((endpoint, 8080), (Node, 50_000)));
        }
    }
    all
}

/// What is left is what it was, and nothing changes its length. Sums that cover what is there are as wrong as they were.
#[track_caller]
fn check(before: &HostPacket, after: &HostPacket, verdict: Verdict, at: usize) {
    let (old, new) = (&before.bytes, &after.bytes);
    assert_eq!(old.len(), new.len(), "{verdict:?}");
    if matches!(verdict, Verdict::Left | Verdict::Dropped) {
        assert!(old == new, "{verdict:?}\n{old:02x?}\n{new:02x?}");
        return;
    }
    let (old, new) = (&old[at..], &new[at..]);
    if covers_its_header(old) {
        assert_eq!(old[end(old)..], new[end(old)..], "behind the packet");
        assert_eq!(errors(old), errors(new), "{verdict:?}\n{old:02x?}\n{new:02x?}");
    }
    // A frame may go on behind the message, with bytes that are nobody's.
    let (start, end) = (header_bytes(old), end(old).min(old.len()));
    let is_message = matches!((protocol(old), start), (ICMP, 20) | (ICMPV6, 40));
    if is_message && start + 8 < end && covers_its_header(&old[start + 8..end]) {
        let quoted = [old, new].map(|ip| errors(&ip[start + 8..end]));
        assert_eq!(quoted[0], quoted[1], "what is quoted\n{old:02x?}\n{new:02x?}");
    }
}

/// Where a packet ends, as it says.
fn end(ip: &[u8]) -> usize {
    if header_bytes(ip) == 40 { 40 + usize::from(word(ip, 4)) } else { usize::from(word(ip, 2)) }
}

/// Whether a packet is as long as it says, and long enough for what it carries.
fn covers_its_header(ip: &[u8]) -> bool {
    let start = if ip.first().is_some_and(|first| first >> 4 == 6) { 40 } else { 20 };
    let carried = match ip.get(start).map(|_| protocol(ip)) {
        Some(TCP) => 20,
        // IPv6's header of a fragment, and TCP's.
        Some(44) => 28,
        Some(_) | None => 8,
    };
    let least = start + carried;
    ip.len() >= least && (least..=ip.len()).contains(&end(ip))
}

#[test]
fn hostile_packets_are_left_alone_or_translated_rightly() {
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let (began, limit) = (Instant::now(), Duration::from_secs(seconds));
    let (mut given, mut answered, mut seed) = ([0_u64; 4], 0, 0);
    while seed < ROUNDS || began.elapsed() < limit {
        let mut round = Round::new(seed);
        let number = Number(seed);
        round.run();
        drop(number);
        given.iter_mut().zip(round.given).for_each(|(all, some)| *all += some);
        (answered, seed) = (answered + round.answered, seed + 1);
    }
    println!(
        "{seed} rounds of {PACKETS} packets: left, passed, redirected, dropped {given:?}; answered {answered}"
    );
    assert!(given[..3].iter().all(|times| *times > 1000) && answered > 1000, "{given:?} {answered}");
}
