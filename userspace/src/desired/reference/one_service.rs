//! The meaning of one Service, in every detail.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::addresses::{Kind, admits, frontends};
use super::endpoints::{self, Asked, count_merges, merges, seen};
use super::generate::{CLIENTS, slices_of, some_context, some_service};
use super::traffic::{Source, Verdict, verdict};
use crate::desired::{
    Action, Context, Frontend, HealthCheck, List, Outcome, PortId, Routes, ServicePort, of_service,
};
use crate::model::sample::{apply_service, apply_slice};
use crate::model::{self, Cluster, Family, Origin, Service, ServiceName, Slice};

/// Beyond this many ways to merge duplicates a case is not worth its time.
const MANY: usize = 200;

/// All that can be asked about a service port.
#[derive(Debug, PartialEq, Eq)]
struct Answers {
    verdicts: Vec<(Frontend, [Verdict; 3])>,
    /// Whom each guarded address lets in, among the [`CLIENTS`].
    admitted: Vec<(Frontend, Vec<IpAddr>)>,
    affinity: Option<NonZeroU32>,
    cluster: Vec<SocketAddr>,
    local: Vec<SocketAddr>,
    here: Vec<SocketAddr>,
    with_flows: Vec<SocketAddr>,
}

proptest! {
    #[test]
    fn each_answer_is_the_one_that_the_tables_give(
        service in some_service(), slices in slices_of("web"), context in some_context(),
    ) {
        let service = Service { name: ServiceName::new("default", "web"), ..service };
        check(&service, &slices, &context)?;
    }
}

fn check(service: &Service, slices: &[Slice], context: &Context) -> Result<(), TestCaseError> {
    let found = outcome(service, slices, context);
    let mut expected_ports: Vec<PortId> = ports(service).into_iter().map(|(_, id)| id).collect();
    expected_ports.sort_unstable();
    prop_assert_eq!(found.ports.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), expected_ports);
    let mut ready = BTreeSet::from([BTreeSet::new()]);
    for (port, id) in ports(service) {
        let (_, answer) = found.ports.iter().find(|(one, _)| *one == id).unwrap();
        let Some(possible) = check_port(service, port, &id, (slices, context), answer)? else {
            return Ok(());
        };
        ready = ready.iter().flat_map(|one| possible.iter().map(move |more| one | more)).collect();
    }
    check_health(service, &found.health_checks, &ready)
}

fn outcome(service: &Service, slices: &[Slice], context: &Context) -> Outcome {
    let mut cluster = Cluster::of_node(context.node.clone(), Origin::Folder);
    cluster.take(apply_service(service.clone()));
    slices.iter().for_each(|slice| cluster.take(apply_slice(slice.clone())));
    of_service(&cluster, context, &service.name)
}

fn ports(service: &Service) -> Vec<(&model::ServicePort, PortId)> {
    let mut all = Vec::new();
    for address in &service.addresses {
        for port in &service.ports {
            let family = Family::of(*address);
            all.push((port, PortId { port: port.name.clone(), protocol: port.protocol, family }));
        }
    }
    all
}

/// The sets of addresses that the port may add to the count of ready endpoints on this node; `None` if there are too
/// many ways to merge the slices.
fn check_port(
    service: &Service,
    port: &model::ServicePort,
    id: &PortId,
    (slices, context): (&[Slice], &Context),
    found: &ServicePort,
) -> Result<Option<BTreeSet<BTreeSet<IpAddr>>>, TestCaseError> {
    let all = seen(service, port, id.family, slices);
    if count_merges(&all) > MANY {
        return Ok(None);
    }
    let merges = merges(&all);
    let found = read(found, id.family);
    let questions: Vec<Asked<'_>> = merges
        .iter()
        .map(|endpoints| Asked { service, port, family: id.family, context, endpoints })
        .collect();
    let fitting: Vec<&Asked<'_>> = questions.iter().filter(|asked| answers(**asked) == found).collect();
    if fitting.is_empty() {
        prop_assert_eq!(found, answers(questions[0]), "{:?}, {} ways", id, merges.len());
    }
    Ok(Some(fitting.into_iter().map(|asked| endpoints::ready_on_this_node(*asked)).collect()))
}

/// One count a family, if anybody asks.
fn check_health(
    service: &Service,
    found: &[HealthCheck],
    ready: &BTreeSet<BTreeSet<IpAddr>>,
) -> Result<(), TestCaseError> {
    let port = service.external.as_ref().and_then(|external| external.health_check_port);
    let mut families: Vec<Family> = service.addresses.iter().map(|one| Family::of(*one)).collect();
    families.sort_unstable();
    let counted =
        |ready: &BTreeSet<IpAddr>, family| ready.iter().filter(|one| Family::of(**one) == family).count();
    let possible = ready.iter().map(|ready| {
        let check = |(family, port)| HealthCheck { family, port, local_endpoints: counted(ready, family) };
        families.iter().filter_map(|family| Some((*family, port?))).map(check).collect()
    });
    let possible: Vec<Vec<HealthCheck>> = possible.collect();
    prop_assert!(possible.iter().any(|one| one == found), "{found:?} is none of {possible:?}");
    Ok(())
}

/// What the tables say.
fn answers(asked: Asked<'_>) -> Answers {
    let frontends = frontends(asked);
    let verdicts = |one: &Frontend| (*one, Source::ALL.map(|source| verdict(asked, Kind::of(*one), source)));
    let admitted =
        |one: &Frontend| (*one, clients(asked.family, |client| admits(asked, Kind::of(*one), client)));
    Answers {
        verdicts: frontends.iter().map(verdicts).collect(),
        admitted: frontends.iter().map(admitted).collect(),
        affinity: asked.service.affinity,
        cluster: endpoints::cluster_list(asked),
        local: endpoints::local_list(asked),
        here: endpoints::on_this_node(asked)
            .into_iter()
            .filter(|one| endpoints::with_flows(asked).contains(one))
            .collect(),
        with_flows: endpoints::with_flows(asked),
    }
}

/// What a service port says.
fn read(port: &ServicePort, family: Family) -> Answers {
    let ServicePort { frontends, internal, external, sources: _, affinity, endpoints } = port;
    let verdicts = |one: &Frontend| {
        let Routes { pod, node, outside } = match Kind::of(*one) {
            Kind::ClusterIp => internal,
            Kind::NodePort | Kind::ExternalIp | Kind::LoadBalancer => external,
        };
        (*one, [pod, node, outside].map(|action| read_action(port, *action)))
    };
    let admitted = |one: &Frontend| (*one, clients(family, |client| lets_in(port, *one, client)));
    Answers {
        verdicts: frontends.iter().map(verdicts).collect(),
        admitted: frontends.iter().map(admitted).collect(),
        affinity: *affinity,
        cluster: port.list(List::Cluster).collect(),
        local: port.list(List::Local).collect(),
        here: endpoints.iter().filter(|one| one.uses.here).map(|one| one.address()).collect(),
        with_flows: endpoints.iter().map(|one| one.address()).collect(),
    }
}

fn read_action(port: &ServicePort, action: Action) -> Verdict {
    match action {
        Action::Forward(list, masquerade) => Verdict::Forward(port.list(list).collect(), masquerade),
        Action::Reject => Verdict::Reject,
        Action::Drop => Verdict::Drop,
    }
}

fn lets_in(port: &ServicePort, frontend: Frontend, client: IpAddr) -> bool {
    let within =
        || port.sources.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(&client)));
    Kind::of(frontend) != Kind::LoadBalancer || within()
}

fn clients(family: Family, keep: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let all = CLIENTS.iter().map(|client| client.parse().unwrap());
    all.filter(|client| Family::of(*client) == family && keep(*client)).collect()
}
