//! Packets of every shape at the edge: too big for one frame, with options, with tags, about others, and near their end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::PacketBuilder;
use lab::agent::Echo;
use lab::link::batch;
use lab::netns::Netns;
use lab::process::Place;
use lab::{Node, Pod, Protocol, wait};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, recv, sendto,
    setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::stage::PORT;
use crate::town::{FAMILIES, Town, count, edge, node_port, own, seen};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A datagram socket on the node that asks, towards an address.
fn socket(town: &Town, to: SocketAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let open = || -> Result<UdpSocket> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    town.asker.netns().run(open).unwrap()
}

/// Asks with so many bytes; who answered.
fn ask(socket: &UdpSocket, bytes: usize) -> Result<String> {
    let mut answer = [0; 4096];
    socket.send(&vec![b'x'; bytes])?;
    let length = socket.recv(&mut answer).context("no answer")?;
    let echo: Echo = serde_json::from_slice(&answer[..length])?;
    Ok(echo.name)
}

/// The answer repeats the question and says more, so that it needs two frames where the question needed one.
#[test]
fn an_answer_in_fragments_arrives_whole() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    for pod in [&town.here, &town.there] {
        town.web(&[pod]);
        for v6 in FAMILIES {
            let socket = socket(&town, node_port(&town.node, v6));
            assert_eq!(ask(&socket, 10).unwrap(), pod.name());
            let fits = if v6 { 1450 } else { 1470 };
            assert_eq!(ask(&socket, fits).unwrap(), pod.name(), "v6 {v6}");
            assert_eq!(ask(&socket, 10).unwrap(), pod.name());
        }
    }
    daemon.no_errors().unwrap();
}

#[test]
fn a_question_in_fragments_goes_to_the_endpoint_of_the_small_ones() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    town.web(&[&town.here, &town.there]);
    for v6 in FAMILIES {
        for _ in 0..8 {
            let socket = socket(&town, node_port(&town.node, v6));
            let small = ask(&socket, 10).unwrap();
            assert_eq!(ask(&socket, 2000).unwrap(), small, "v6 {v6}");
            assert_eq!(ask(&socket, 10).unwrap(), small);
        }
    }
    daemon.no_errors().unwrap();
}

/// Sets an option of a socket that takes plain bytes.
fn set(socket: &UdpSocket, level: i32, option: i32, bytes: &[u8]) {
    let length = libc::socklen_t::try_from(bytes.len()).unwrap();
    // SAFETY: the kernel reads so many bytes from there, during the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, bytes.as_ptr().cast(), length) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn questions_with_options_or_extension_headers_go_to_the_endpoint_of_the_plain_ones() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    town.web(&[&town.here, &town.there]);
    for v6 in FAMILIES {
        for _ in 0..8 {
            let socket = socket(&town, node_port(&town.node, v6));
            let plain = ask(&socket, 10).unwrap();
            let opened = count(&town.node, "opened");
            if v6 {
                // Eight bytes of padding (RFC 8200 section 4.2), behind the number of the next header and a length.
                set(&socket, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &[0, 0, 1, 4, 0, 0, 0, 0]);
            } else {
                // Four times "no operation" (RFC 791).
                set(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &[1; 4]);
            }
            assert_eq!(ask(&socket, 10).unwrap(), plain, "v6 {v6}");
            assert_eq!(count(&town.node, "opened"), opened, "it is no matter of the edge layer");
        }
    }
    daemon.no_errors().unwrap();
}

/// What of a datagram's headers comes to a pod: class of traffic, hops left, and the checksum.
#[derive(Debug, PartialEq, Eq)]
struct Come {
    class: u8,
    hops: u8,
    checksum: u16,
}

/// The next datagram for this port, as a frame.
fn come(ears: &OwnedFd, port: u16) -> Come {
    let mut frame = [0; 2048];
    loop {
        let length = recv(ears.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
        let ip = &frame[14..length];
        let word = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        let (class, hops, protocol, start) = match ip[0] >> 4 {
            4 => (ip[1], ip[8], ip[9], 20),
            6 => ((word(0) >> 4) as u8, ip[7], ip[6], 40),
            _ => continue,
        };
        if protocol == 17 && word(start + 2) == port {
            return Come { class, hops, checksum: word(start + 6) };
        }
    }
}

/// Frames that come to a place, and go out there.
fn ears(place: &Netns) -> OwnedFd {
    let open = || -> Result<OwnedFd> {
        let socket = nix::sys::socket::socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(2))?;
        Ok(socket)
    };
    place.run(open).unwrap()
}

#[test]
fn class_and_congestion_marks_are_kept_and_hops_are_counted_as_by_a_router() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    for pod in [&town.here, &town.there] {
        town.web(&[pod]);
        let ears = ears(pod.netns());
        for (v6, direct) in FAMILIES.into_iter().zip(pod.both(PORT)) {
            let [served, beside] = [node_port(&town.node, v6), direct].map(|to| {
                let socket = socket(&town, to);
                if v6 {
                    // Expedited forwarding (RFC 3246), and congestion experienced (RFC 3168).
                    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &0xbb_i32.to_ne_bytes());
                    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &33_i32.to_ne_bytes());
                } else {
                    set(&socket, libc::IPPROTO_IP, libc::IP_TOS, &0xbb_i32.to_ne_bytes());
                    set(&socket, libc::IPPROTO_IP, libc::IP_TTL, &33_i32.to_ne_bytes());
                    set(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, &1_i32.to_ne_bytes());
                }
                // The first packet, and one of a flow that is known.
                [0, 1].map(|_| {
                    socket.send(b"x").unwrap();
                    let come = come(&ears, PORT);
                    assert_eq!(come.class, 0xbb, "{to}");
                    assert_eq!(come.checksum == 0, !v6, "{to}: no checksum is none");
                    come.hops
                })
            });
            // To an endpoint elsewhere there is a hop more by way of the node.
            let more = if pod.node().name() == "n1" { 0 } else { 2 };
            assert_eq!(served.map(|hops| hops + more), beside, "v6 {v6} {}", pod.name());
        }
    }
    daemon.no_errors().unwrap();
}

#[test]
fn who_sends_with_too_few_hops_is_told_so() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    for pod in [&town.here, &town.there] {
        town.web(&[pod]);
        for v6 in FAMILIES {
            let socket = socket(&town, node_port(&town.node, v6));
            let hops = |hops: i32| {
                let (level, option) = if v6 {
                    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS)
                } else {
                    (libc::IPPROTO_IP, libc::IP_TTL)
                };
                set(&socket, level, option, &hops.to_ne_bytes());
            };
            let (level, errors) = if v6 {
                (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            } else {
                (libc::IPPROTO_IP, libc::IP_RECVERR)
            };
            set(&socket, level, errors, &1_i32.to_ne_bytes());
            assert_eq!(ask(&socket, 10).unwrap(), pod.name());
            // The wire takes one; the node may not go on with the other.
            hops(2);
            let error = ask(&socket, 10).unwrap_err();
            assert!(
                error.root_cause().to_string().contains("os error 113"),
                "v6 {v6} {}: {error:#}",
                pod.name()
            );
            hops(64);
            assert_eq!(ask(&socket, 10).unwrap(), pod.name());
        }
    }
    daemon.no_errors().unwrap();
}

/// Sends more bytes than fit anywhere to a server that sends them back; who that was.
fn carry(client: &Pod, to: SocketAddr) -> Result<String> {
    client.netns().run(|| {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(4 * PATIENCE))?;
        stream.set_write_timeout(Some(4 * PATIENCE))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let (mut writer, mut answer) = (stream, String::new());
        let said = "0123456789".repeat(10_000);
        for _ in 0..3 {
            writer.write_all(format!("{said}\n").as_bytes())?;
            answer.clear();
            lines.read_line(&mut answer).context("no answer")?;
            ensure!(serde_json::from_str::<Echo>(&answer)?.said == said, "other bytes than were sent");
        }
        Ok(serde_json::from_str::<Echo>(&answer)?.name)
    })
}

/// How much the node's link to a pod carries.
fn widen(pod: &Pod, bytes: u32) {
    let [.., number] = pod.v4().octets();
    batch(pod.node().netns(), &format!("link set p{number} mtu {bytes}\n")).unwrap();
}

/// The way to the endpoint, or that back to the client, is narrower than both ends know.
#[test]
fn narrow_ways_are_found_out_by_connections_in_both_directions() {
    let town = Town::new();
    // Behind a router of its own, which is not on the way between the nodes.
    let client = town.asker.pod("client").unwrap();
    let daemon = town.daemon(&town.node, &[]);
    for (v6, pod) in FAMILIES.into_iter().flat_map(|v6| [(v6, &town.here), (v6, &town.there)]) {
        town.web(&[pod]);
        let to = node_port(&town.node, v6);
        assert_eq!(carry(&client, to).unwrap(), pod.name());
        for narrow in [&client, pod] {
            let errors = count(&town.node, "errors");
            widen(narrow, 1300);
            let name = carry(&client, to);
            assert_eq!(name.with_context(|| format!("{} v6 {v6}", narrow.name())).unwrap(), pod.name());
            // Of what is too narrow on the node itself its stack tells.
            let told = count(&town.node, "errors") > errors;
            assert!(told || narrow.name() == "here", "{} v6 {v6} {}", narrow.name(), edge(&town.node));
            widen(narrow, 1500);
            // What was found out is forgotten for the next round.
            for place in [client.netns(), pod.netns()] {
                let mut ip = Place::new(place).command("ip");
                let family = if v6 { "-6" } else { "-4" };
                assert!(ip.args([family, "route", "flush", "cache"]).status().unwrap().success());
            }
        }
    }
    daemon.no_errors().unwrap();
}

/// A device of a place, to send frames by.
fn device(place: &Netns, name: &str) -> LinkAddr {
    let index = place.run(|| Ok(nix::net::if_::if_nametoindex(name)?)).unwrap();
    // SAFETY: all bytes zero are a value of the structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    (address.sll_family, address.sll_ifindex) = (libc::AF_PACKET as u16, index.cast_signed());
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: it is of the family that it says, and of that length.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }.unwrap()
}

/// Of the node's device on the wire.
fn hardware_address(node: &Node) -> [u8; 6] {
    let all = || -> Result<Vec<InterfaceAddress>> { Ok(getifaddrs()?.collect()) };
    let all = node.netns().run(all).unwrap();
    let wire = all.iter().filter(|found| found.interface_name == "wire");
    wire.filter_map(|found| found.address?.as_link_addr()?.addr()).next().expect("a device with an address")
}

/// A frame of the first packet of a connection, from the wire to the first node, with a tag or without.
fn first_frame(town: &Town, from: u16, tag: Option<u16>) -> Vec<u8> {
    let node = node_port(&town.node, false);
    let SocketAddr::V4(to) = node else { panic!("{node} is not of IPv4") };
    let mut packet = Vec::new();
    PacketBuilder::ipv4(town.asker.v4().octets(), to.ip().octets(), 64)
        .tcp(from, to.port(), 7, 1000)
        .syn()
        .write(&mut packet, &[])
        .unwrap();
    let tag = tag.map(|number| [[0x81, 0], number.to_be_bytes()].concat()).unwrap_or_default();
    [&hardware_address(&town.node)[..], &[2, 0, 0, 0, 0, 9], &tag, &[8, 0], &packet].concat()
}

/// Who is on the tagged network may be somebody else, with the same addresses.
#[test]
fn tagged_frames_on_the_parent_device_are_left_alone() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    town.web(&[&town.here]);
    let wire = town.stage.lab.wire().netns();
    let (mouth, to) = (ears(wire), device(wire, "n1"));
    let send_frame = |frame: &[u8]| {
        assert_eq!(sendto(mouth.as_raw_fd(), frame, &to, MsgFlags::empty()), Ok(frame.len()));
    };
    for number in 0..20 {
        send_frame(&first_frame(&town, 7000 + number, Some(5)));
    }
    assert_eq!(count(&town.node, "opened"), 0, "{}", edge(&town.node));
    send_frame(&first_frame(&town, 7100, None));
    wait::until("the plain one to be served", PATIENCE, || {
        let opened = count(&town.node, "opened");
        ensure!(opened == 1, "{opened}");
        Ok(())
    })
    .unwrap();
    daemon.no_errors().unwrap();
}

/// A tunnel of the node, at the other end of which somebody asks: a device of its own, behind which another one carries.
#[test]
fn who_comes_through_a_tunnel_is_served_on_the_tunnels_device() {
    let town = Town::new();
    let tunnel = |node: &Node, other: &Node, last: u8| {
        let script = format!(
            "link add tunnel type vxlan id 7 dev wire local {} remote {} dstport 4789\nlink set tunnel up\n\
             addr add 192.168.77.{last}/24 dev tunnel\naddr add fd77::{last}/64 dev tunnel nodad\n",
            node.v4(),
            other.v4()
        );
        batch(node.netns(), &script).unwrap();
    };
    tunnel(&town.node, &town.asker, 1);
    tunnel(&town.asker, &town.node, 3);
    let daemon = town.daemon(&town.node, &["--devices=wire,tunnel"]);
    let node_ports: [SocketAddr; 2] = ["192.168.77.1:30080", "[fd77::1]:30080"].map(|at| at.parse().unwrap());
    let clients: [IpAddr; 2] = ["192.168.77.3", "fd77::3"].map(|ip| ip.parse().unwrap());
    for pod in [&town.here, &town.there] {
        town.web(&[pod]);
        for (v6, (to, client)) in FAMILIES.into_iter().zip(node_ports.into_iter().zip(clients)) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let before = count(&town.node, "opened");
                let answer = town.asker.call(protocol, to).unwrap();
                let source = if pod.name() == "here" { client } else { own(&town.node, v6) };
                assert_eq!(seen(&answer), (pod.name().to_owned(), source), "{protocol:?} {to}");
                assert_eq!(answer.peer, to.to_string());
                assert_eq!(count(&town.node, "opened") - before, 1, "{}", edge(&town.node));
            }
        }
    }
    daemon.no_errors().unwrap();
}
