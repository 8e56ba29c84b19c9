//! What the files say together, and for how long what they have lost still holds. Pure: the time is handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::read::Contents;
use crate::model::{Change, ObjectRef, Problem};

/// How long a file may be without what it said before. Whoever changes files by taking them away and putting them back
/// is done by then.
const SETTLE: Duration = Duration::from_millis(250);

/// All files.
#[derive(Default)]
pub(super) struct State {
    files: BTreeMap<String, File>,
    /// Which files say something about an object: of those that do so without doubt, the first counts.
    claims: BTreeMap<ObjectRef, BTreeSet<String>>,
    /// What files have lost, and until when it holds nevertheless.
    doubts: BTreeMap<String, BTreeMap<ObjectRef, Instant>>,
    /// Files of which something could not be read; with a time once everything could, which is believed from then on.
    broken: BTreeMap<String, Option<Instant>>,
    /// When to read which file again.
    alarms: BTreeSet<(Instant, String)>,
    /// Whether it was said last that not everything can be read.
    partial: bool,
}

#[derive(Default)]
struct File {
    /// What it says, and what it has lost but holds nevertheless.
    objects: BTreeSet<ObjectRef>,
    /// What is wrong with it alone.
    problems: Vec<Problem>,
    /// Whether anything is known to be wrong with it.
    told: bool,
}

/// What comes of reading a file.
#[derive(Default)]
pub(super) struct Taken {
    /// To be sent, in order.
    pub(super) changes: Vec<Change>,
    /// Files to be read anew: they have something that this one has no longer.
    pub(super) again: BTreeSet<String>,
    /// Files whose problems may be others.
    pub(super) concerned: BTreeSet<String>,
}

impl State {
    /// Every file that says something or is broken.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.files.keys()
    }

    /// When a file should be read again.
    pub(super) fn alarm(&self) -> Option<Instant> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// The files that should be read again by this time; nobody is told twice.
    pub(super) fn due(&mut self, now: Instant) -> BTreeSet<String> {
        let mut due = BTreeSet::new();
        while self.alarm().is_some_and(|at| at <= now) {
            due.extend(self.alarms.pop_first().map(|(_, name)| name));
        }
        due
    }

    /// The folder was away: what files seem to have lost since has all the time to come back.
    pub(super) fn begin_anew(&mut self) {
        self.doubts.clear();
        self.alarms.clear();
        self.broken.values_mut().for_each(|mended| *mended = None);
    }

    /// Takes in what a file says.
    pub(super) fn take(&mut self, name: &str, contents: Contents, now: Instant) -> Taken {
        let Contents { applied, problems, whole } = contents;
        let mut taken = Taken { concerned: BTreeSet::from([name.to_owned()]), ..Taken::default() };
        let file = self.files.entry(name.to_owned()).or_default();
        file.problems = problems;
        let lost: Vec<ObjectRef> =
            file.objects.iter().filter(|object| !applied.contains_key(object)).cloned().collect();
        for (object, change) in applied {
            self.claim(name, object, change, &mut taken);
        }
        if whole {
            for object in lost {
                self.lose(name, object, now, &mut taken);
            }
        } else {
            // Held for as long as the file is broken.
            self.doubts.remove(name);
        }
        self.judge(name, whole, now, &mut taken);
        self.tell(&mut taken);
        taken
    }

    fn claim(&mut self, name: &str, object: ObjectRef, change: Change, taken: &mut Taken) {
        self.believe(name, &object);
        self.files.entry(name.to_owned()).or_default().objects.insert(object.clone());
        let claims = self.claims.entry(object.clone()).or_default();
        claims.insert(name.to_owned());
        if claims.len() > 1 {
            taken.concerned.extend(claims.iter().cloned());
        }
        if self.counting(&object).is_some_and(|first| first == name) {
            taken.changes.push(change);
        }
    }

    /// There is no doubt about this object of a file, or no longer.
    fn believe(&mut self, name: &str, object: &ObjectRef) {
        if let Some(doubts) = self.doubts.get_mut(name) {
            doubts.remove(object);
            if doubts.is_empty() {
                self.doubts.remove(name);
            }
        }
    }

    /// A file does not say this any more: for the moment, or long enough.
    fn lose(&mut self, name: &str, object: ObjectRef, now: Instant, taken: &mut Taken) {
        let doubts = self.doubts.entry(name.to_owned()).or_default();
        let until = *doubts.entry(object.clone()).or_insert(now + SETTLE);
        if now < until {
            self.alarms.insert((until, name.to_owned()));
        } else {
            self.release(name, &object, taken);
        }
    }

    /// The next file that says something about the object takes over, else the object is gone.
    fn release(&mut self, name: &str, object: &ObjectRef, taken: &mut Taken) {
        self.believe(name, object);
        if let Some(file) = self.files.get_mut(name) {
            file.objects.remove(object);
        }
        if let Some(claims) = self.claims.get_mut(object) {
            claims.remove(name);
            taken.concerned.extend(claims.iter().cloned());
        }
        match self.counting(object).cloned() {
            Some(next) => {
                taken.again.insert(next);
            }
            None => {
                self.claims.remove(object);
                taken.changes.push(Change::Deleted(object.clone()));
            }
        }
    }

    /// The file that counts for an object.
    fn counting(&self, object: &ObjectRef) -> Option<&String> {
        let claims = self.claims.get(object)?;
        claims.iter().find(|name| !self.doubted(name, object)).or_else(|| claims.first())
    }

    fn doubted(&self, name: &str, object: &ObjectRef) -> bool {
        self.doubts.get(name).is_some_and(|doubts| doubts.contains_key(object))
    }

    /// Whether a file, and with it everything, can be read. One that was broken is not believed at once to be whole: it
    /// may be empty only because somebody is writing it anew.
    fn judge(&mut self, name: &str, whole: bool, now: Instant, taken: &mut Taken) {
        match self.broken.get_mut(name) {
            None if whole => {}
            Some(mended) if whole => {
                let until = *mended.get_or_insert(now + SETTLE);
                if now < until {
                    self.alarms.insert((until, name.to_owned()));
                } else {
                    self.broken.remove(name);
                }
            }
            Some(_) | None => {
                self.broken.insert(name.to_owned(), None);
            }
        }
        let partial = !self.broken.is_empty();
        if std::mem::replace(&mut self.partial, partial) != partial {
            taken.changes.push(Change::Partial(partial));
        }
    }

    /// Says what is wrong with the files concerned, where anything is or was.
    fn tell(&mut self, taken: &mut Taken) {
        for name in &taken.concerned {
            let problems = self.problems(name);
            let Some(file) = self.files.get_mut(name) else { continue };
            let wrong = !problems.is_empty();
            if wrong || file.told {
                taken.changes.push(Change::Problems { object: format!("file {name}"), problems });
            }
            file.told = wrong;
            if !wrong && file.objects.is_empty() && !self.broken.contains_key(name) {
                self.files.remove(name);
            }
        }
    }

    fn problems(&self, name: &str) -> Vec<Problem> {
        let Some(file) = self.files.get(name) else { return Vec::new() };
        let twice = |object: &ObjectRef| {
            let first = self.counting(object).filter(|first| *first != name)?;
            let message = format!("stands in {first} too, which counts");
            Some(Problem { source: Some(name.to_owned()), ..Problem::new(object, "", message) })
        };
        let said = file.objects.iter().filter(|object| !self.doubted(name, object));
        file.problems.iter().cloned().chain(said.filter_map(twice)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::{contents, unreadable};
    use super::*;

    #[test]
    fn what_a_file_has_lost_holds_for_a_moment() {
        let mut rig = Rig::default();
        rig.check("a", "web api", "+web +api");
        rig.check("a", "", "");
        rig.check("a", "api", "+api");
        rig.later(SETTLE);
        assert_eq!(rig.state.due(rig.now), ["a".to_owned()].into());
        rig.check("a", "api", "+api -web");
        assert_eq!(rig.state.alarm(), None);
    }

    #[test]
    fn what_comes_back_in_time_was_never_gone() {
        let mut rig = Rig::default();
        rig.check("a", "web", "+web");
        rig.check("a", "", "");
        rig.check("a", "web", "+web");
        rig.later(SETTLE);
        rig.check("a", "", "");
        assert!(rig.state.alarm().is_some());
    }

    #[test]
    fn each_object_has_its_own_time() {
        let mut rig = Rig::default();
        rig.check("a", "web api", "+web +api");
        rig.check("a", "api", "+api");
        rig.later(SETTLE);
        rig.check("a", "", "-web");
        rig.later(SETTLE);
        rig.check("a", "", "-api");
        assert_eq!(rig.state.names().count(), 0);
    }

    #[test]
    fn a_file_that_is_due_is_named_once() {
        let mut rig = Rig::default();
        rig.check("a", "web", "+web");
        rig.check("a", "", "");
        assert!(rig.state.due(rig.now).is_empty());
        rig.later(SETTLE);
        assert_eq!(rig.state.due(rig.now), ["a".to_owned()].into());
        assert!(rig.state.due(rig.now).is_empty());
    }

    #[test]
    fn after_an_absence_of_the_folder_the_time_begins_anew() {
        let mut rig = Rig::default();
        rig.check("a", "web", "+web");
        rig.check("a", "", "");
        rig.later(SETTLE);
        rig.state.begin_anew();
        assert_eq!(rig.state.alarm(), None);
        rig.check("a", "", "");
        rig.later(SETTLE);
        rig.check("a", "", "-web");
    }

    #[test]
    fn a_broken_file_takes_nothing_away_and_makes_everything_partial_until_it_is_mended_for_a_moment() {
        let mut rig = Rig::default();
        rig.check("a", "web", "+web");
        rig.check("a", "!", "partial a:file_a");
        rig.later(SETTLE);
        rig.check("a", "!", "a:file_a");
        rig.check("a", "", "a:");
        rig.check("a", "!", "a:file_a");
        rig.check("a", "web", "+web a:");
        rig.later(SETTLE);
        rig.check("a", "web", "+web whole");
    }

    #[test]
    fn it_is_partial_until_the_last_broken_file_is_mended() {
        let mut rig = Rig::default();
        rig.check("a", "!", "partial a:file_a");
        rig.check("b", "!", "b:file_b");
        rig.check("a", "", "a:");
        rig.later(SETTLE);
        rig.check("a", "", "");
        rig.check("b", "", "b:");
        rig.later(SETTLE);
        rig.check("b", "", "whole");
        assert_eq!(rig.state.names().count(), 0);
    }

    #[test]
    fn of_two_files_the_first_counts_whichever_was_there_first() {
        let mut rig = Rig::default();
        rig.check("b", "web", "+web");
        rig.check("a", "web", "+web b:Service_default/web");
        rig.check("b", "web", "b:Service_default/web");
        rig.check("a", "", "");
        rig.later(SETTLE);
        rig.check("a", "", "b: again:b");
        rig.check("b", "web", "+web");
        rig.check("c", "web", "c:Service_default/web");
    }

    #[test]
    fn an_object_moves_from_file_to_file_at_once() {
        let mut rig = Rig::default();
        rig.check("a", "web", "+web");
        rig.check("a", "", "");
        rig.check("b", "web", "+web");
        rig.later(SETTLE);
        rig.check("a", "", "again:b");
        rig.check("b", "web", "+web");
    }

    #[test]
    fn of_an_object_that_stands_twice_in_a_file_the_first_counts() {
        let mut rig = Rig::default();
        rig.check("a", "web web", "+web a:Service_default/web");
        rig.check("a", "web", "+web a:");
    }

    struct Rig {
        state: State,
        now: Instant,
    }

    impl Default for Rig {
        fn default() -> Self {
            Self { state: State::default(), now: Instant::now() }
        }
    }

    impl Rig {
        fn later(&mut self, time: Duration) {
            self.now += time;
        }

        /// Takes a file with Services of these names; `!` is a broken one.
        fn check(&mut self, name: &str, services: &str, expected: &str) {
            let contents = match services {
                "!" => unreadable(name, "is broken"),
                services => contents(name, &services.split(' ').map(service).collect::<String>()),
            };
            let taken = self.state.take(name, contents, self.now);
            let again = taken.again.into_iter().map(|name| format!("again:{name}"));
            let mut said: Vec<String> = taken.changes.iter().map(word).chain(again).collect();
            let mut expected: Vec<&str> = expected.split_whitespace().collect();
            said.sort_unstable();
            expected.sort_unstable();
            assert_eq!(said, expected, "{name} {services:?}");
        }
    }

    fn service(name: &str) -> String {
        match name {
            "" => String::new(),
            name => format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"),
        }
    }

    fn word(change: &Change) -> String {
        match change {
            Change::Service(applied) => format!("+{}", applied.object.name),
            Change::Deleted(object) => format!("-{}", object.name),
            Change::Partial(true) => "partial".to_owned(),
            Change::Partial(false) => "whole".to_owned(),
            Change::Problems { object, problems } => {
                let whose: Vec<&str> =
                    problems.iter().map(|Problem { object, .. }| object.as_str()).collect();
                let whose = whose.join(",").replace(' ', "_");
                format!("{}:{whose}", object.trim_start_matches("file "))
            }
            Change::Slice(_)
            | Change::Node(_)
            | Change::ServiceCidr(_)
            | Change::Unreadable { .. }
            | Change::Begin(_)
            | Change::End(_)
            | Change::Hears(..) => {
                panic!("{change:?}")
            }
        }
    }
}
