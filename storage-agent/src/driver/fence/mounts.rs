//! What is mounted, as the kernel says it (proc_pid_mountinfo(5)).

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, path::PathBuf};

/// Every mounted dataset whose name begins with `below`, and where, in the text of a `mountinfo`.
pub(in crate::driver) fn mounted_below(text: &str, below: &str) -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let place = head.split(' ').nth(4)?;
            let source = unescape(tail.split(' ').nth(1)?);
            let source = source.into_string().ok()?;
            source
                .starts_with(below)
                .then(|| (source, PathBuf::from(unescape(place))))
        })
        .collect();
    // What was mounted last is in the way of what was mounted before.
    found.reverse();
    found
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(text: &str) -> OsString {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match (first, code) {
            (b'\\', Some(code)) => {
                out.push(code);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_of_ours_are_found_on_both_file_systems() {
        let text = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
67 43 0:43 / /var/lib/flocker/volumes/notes rw,relatime - fuse.zfs tank/flocker/a rw,user_id=0
68 43 0:44 / /mnt/with\\040space rw shared:5 master:2 - zfs tank/flocker/b rw,xattr
69 43 0:45 / /tank rw - zfs tank rw
70 43 0:46 / /other rw - zfs tank/flockers/c rw
71 broken
";
        let found = mounted_below(text, "tank/flocker/");
        let path = |text: &str| PathBuf::from(text);
        assert_eq!(
            found,
            [
                ("tank/flocker/b".to_owned(), path("/mnt/with space")),
                (
                    "tank/flocker/a".to_owned(),
                    path("/var/lib/flocker/volumes/notes")
                ),
            ]
        );
    }
}
