use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
fn main() {
    let bytes = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let mut l = aya::EbpfLoader::new();
    l.btf(None);
    for m in ["FLOWS", "LISTS", "FRONTENDS", "TARGETS", "SERVERS", "STAYS"] {
        l.map_max_entries(m, 1024);
    }
    let mut e = l.load(&bytes).unwrap();
    {
        let mut sides: Array<_, [u32; 15]> = Array::try_from(e.map_mut("SIDES").unwrap()).unwrap();
        sides.set(0, [0; 15], 0).unwrap();
    }
    let mut pkt = vec![0u8; 14];
    pkt[12] = 8;
    let udp = [
        0x45u8, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0, 80, 0, 26,
        0x12, 0x34,
    ];
    pkt.extend(udp);
    pkt.resize(60, 0);
    let m = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    let s = [0, 0, m, u32::from_ne_bytes([10, 0, 0, 1])];
    let t = [0, 0, m, u32::from_ne_bytes([10, 0, 0, 2])];
    let ports = u32::from_ne_bytes([0x30, 0x39, 0, 80]);
    let mut key = [0u32; 10];
    key[..4].copy_from_slice(&s);
    key[4..8].copy_from_slice(&t);
    key[8] = ports;
    key[9] = 17;
    let mut val = [0u32; 19];
    val[..4].copy_from_slice(&s);
    val[4..8].copy_from_slice(&t);
    val[8] = ports;
    val[9] = 1;
    val[12] = u32::MAX;
    if std::env::args().nth(2).is_none() {
        let mut flows: HashMap<_, [u32; 10], [u32; 19]> =
            HashMap::try_from(e.map_mut("FLOWS").unwrap()).unwrap();
        flows.insert(key, val, 0).unwrap();
    }
    let p: &mut SchedClassifier = e.program_mut("edge_in").unwrap().try_into().unwrap();
    p.load().unwrap();
    let mut out = vec![0u8; 2048];
    let mut best = u128::MAX;
    for _ in 0..9 {
        let r = p
            .test_run(TestRunOptions {
                data_in: Some(&pkt),
                data_out: Some(&mut out),
                repeat: 1_000_000,
                ..Default::default()
            })
            .unwrap();
        best = best.min(r.duration.as_nanos());
    }
    println!("{best} ns");
    let _ = ProgramArray::try_from(e.map_mut("STEPS").unwrap()).unwrap();
}
