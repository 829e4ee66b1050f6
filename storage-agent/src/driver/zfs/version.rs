//! Versions of OpenZFS that are known to lose data, and what is to be done about them. Pure.

use std::fmt;

/// A version of OpenZFS, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What is known against a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Nothing.
    Sound,
    /// It may be used; people should know.
    Doubtful(String),
    /// Nothing is to be kept on it.
    Refused(String),
}

/// The kernel's part decides about data; `zfs version` prints it in its second line.
pub(super) fn judge(printed: &str) -> Judgement {
    let tool = printed
        .lines()
        .find_map(|l| l.strip_prefix("zfs-").filter(|l| !l.starts_with("kmod")));
    let kernel = printed
        .lines()
        .find_map(|line| line.strip_prefix("zfs-kmod-"));
    let Some((kernel, version)) = kernel.and_then(|text| Some((text, parse(text)?))) else {
        let text = "OpenZFS does not say which version its kernel module is".to_owned();
        return Judgement::Doubtful(text);
    };
    let judgement = known(kernel, version);
    let tool = tool.and_then(parse);
    match (judgement, tool) {
        (Judgement::Sound, Some(tool))
            if (tool.major, tool.minor) != (version.major, version.minor) =>
        {
            Judgement::Doubtful(format!(
                "the zfs program is version {tool} and the kernel module {version}; both should be the same"
            ))
        }
        (judgement, _) => judgement,
    }
}

fn known(text: &str, version: Version) -> Judgement {
    let upto = |major, minor, patch| {
        version
            < Version {
                major,
                minor,
                patch,
            }
    };
    // openzfs/zfs#15526: reading a file just written may find holes in it; block cloning, new in
    // 2.2.0, makes it frequent. Fixed in 2.1.14 and 2.2.2, and by Debian in 2.1.11-1+deb12u1.
    if (version.major, version.minor) == (2, 2) && version.patch < 2 {
        return Judgement::Refused(format!(
            "OpenZFS {version} loses data (openzfs/zfs#15526); 2.2.2 or newer is needed"
        ));
    }
    let fixed_by_debian = text.contains("+deb12u") || text.contains("+deb11u");
    if upto(2, 1, 14) && !fixed_by_debian && !upto(2, 1, 0) {
        return Judgement::Doubtful(format!(
            "OpenZFS {version} may read zeros from files just written (openzfs/zfs#15526); \
             2.1.14 or newer does not, nor does zfs_dmu_offset_next_sync=0"
        ));
    }
    if upto(2, 1, 0) {
        return Judgement::Doubtful(format!(
            "OpenZFS {version} is older than any that this agent is tested with; 2.1 to 2.4 are"
        ));
    }
    Judgement::Sound
}

/// `2.3.2-2~bpo12+2` and the like.
fn parse(text: &str) -> Option<Version> {
    let numbers = text.split(['-', '~', '+', '_']).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    Some(Version {
        major: numbers.next()??,
        minor: numbers.next()??,
        // Release candidates and builds from a branch have two.
        patch: numbers.next().flatten().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(tool: &str, kernel: &str) -> Judgement {
        judge(&format!("zfs-{tool}\nzfs-kmod-{kernel}\n"))
    }

    #[test]
    fn versions_that_lose_data_are_refused() {
        for version in ["2.2.0", "2.2.1", "2.2.0-1", "2.2.1-1ubuntu1"] {
            let judgement = printed(version, version);
            assert!(
                matches!(judgement, Judgement::Refused(_)),
                "{version}: {judgement:?}"
            );
        }
    }

    #[test]
    fn versions_in_doubt_are_told() {
        for version in ["2.1.5", "2.1.13-1", "2.0.7", "0.8.3-1ubuntu12"] {
            let judgement = printed(version, version);
            assert!(
                matches!(judgement, Judgement::Doubtful(_)),
                "{version}: {judgement:?}"
            );
        }
        let judgement = printed("2.3.2", "2.1.14");
        assert!(matches!(judgement, Judgement::Doubtful(text) if text.contains("2.1.14")));
        assert!(matches!(judge("zfs-2.3.2\n"), Judgement::Doubtful(_)));
    }

    #[test]
    fn sound_versions_pass() {
        for version in [
            "2.1.11-1+deb12u1",
            "2.1.14",
            "2.2.2",
            "2.3.2-2~bpo12+2",
            "2.4.0-rc1",
        ] {
            assert_eq!(printed(version, version), Judgement::Sound, "{version}");
        }
    }
}
