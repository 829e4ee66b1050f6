//! What the formats can say and no runtime carries out yet: it is refused where it is said.

use super::{error::Problem, reader::Reader, yaml::Mark};

/// Something that a runtime or an edge has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feature {
    Links,
}

/// What nobody does yet.
#[cfg(not(test))]
const AWAITED: &[Feature] = &[Feature::Links];
/// Tests of the formats are about what they say.
#[cfg(test)]
const AWAITED: &[Feature] = &[];

impl Feature {
    /// Whether no runtime does it yet.
    pub(super) fn is_awaited(self) -> bool {
        AWAITED.contains(&self)
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Links => (
                "linking apps",
                "give the app a variable in 'environment' with the address of an edge and the \
                 external port of the other app",
            ),
        }
    }
}

impl Reader<'_> {
    /// Refuses what no runtime does yet.
    pub(super) fn awaited(&mut self, at: Mark, path: &str, feature: Feature) {
        if feature.is_awaited() {
            let (what, instead) = feature.words();
            let problem = Problem::Unsupported {
                path: path.to_owned(),
                what: what.to_owned(),
                instead,
            };
            self.note(at, problem);
        }
    }
}
