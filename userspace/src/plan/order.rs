//! Make before break, written once.

/// One kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Names of services: first in and last out, so that whatever a dump shows has a name.
    PutNames,
    /// Endpoints.
    PutBackends,
    /// New generations of endpoint lists.
    PutSlots,
    /// Who is in the new generations, where clients keep their endpoints.
    PutMembers,
    /// Addresses that answer no more: before the lists that only they led to are named no more, so that nobody is refused.
    DropServices,
    /// List states: each of these writes is a commit point.
    PutStates,
    /// Addresses of services that are new.
    PutServices,
    /// States of service ports that are gone.
    DropStates,
    /// Who was in old generations: before their places, so that a member always has a place.
    DropMembers,
    /// Old generations.
    DropSlots,
    /// Endpoints that left.
    DropBackends,
    /// Names nobody bears.
    DropNames,
}

/// The order in which a plan is carried out. What a service points at exists before the service does, and goes after
/// nothing points at it.
pub const ORDER: [Step; 12] = [
    Step::PutNames,
    Step::PutBackends,
    Step::PutSlots,
    Step::PutMembers,
    Step::DropServices,
    Step::PutStates,
    Step::PutServices,
    Step::DropStates,
    Step::DropMembers,
    Step::DropSlots,
    Step::DropBackends,
    Step::DropNames,
];
