//! The page of a small run, checked for what it says rather than for every byte.

use super::*;

fn spread(median: f64, min: f64, max: f64) -> Option<Spread> {
    Some(Spread { median, min, max })
}

fn subject(name: &str, cpu: f64, ratio: Option<Spread>) -> SubjectFigures {
    SubjectFigures {
        name: name.to_owned(),
        cpu_per_unit: spread(cpu, cpu - 1.0, cpu + 1.0),
        user_per_unit: spread(cpu / 4.0, cpu / 4.0, cpu / 4.0),
        system_per_unit: spread(cpu * 0.75, cpu * 0.75, cpu * 0.75),
        syscalls_per_unit: spread(4.5, 4.5, 4.5),
        ratio,
        runs: 3,
        ..SubjectFigures::default()
    }
}

fn run(ratio: f64) -> Figures {
    let connect = WorkloadFigures {
        workload: "connect".to_owned(),
        about: "connections & their <end>".to_owned(),
        unit: "connection".to_owned(),
        cpu_unit: "us".to_owned(),
        cpu_measured: "closed".to_owned(),
        rate: Some(5000.0),
        subjects: vec![
            subject("flocker", 40.0, None),
            subject("haproxy", 50.0, spread(ratio, ratio - 0.1, ratio + 0.1)),
        ],
        ..WorkloadFigures::default()
    };
    let idle = WorkloadFigures {
        workload: "idle-tcp".to_owned(),
        unit: "session".to_owned(),
        sessions: Some(9750),
        subjects: vec![SubjectFigures {
            name: "flocker".to_owned(),
            bytes_per_session: spread(420.0, 410.0, 430.0),
            refused: vec!["round 1: disturbed".to_owned()],
            ..SubjectFigures::default()
        }],
        ..WorkloadFigures::default()
    };
    Figures {
        head: Head {
            command: "flocker-bench edge --workload all".to_owned(),
            runs: 3,
            seconds: 2.0,
            ..Head::default()
        },
        workloads: vec![connect, idle],
    }
}

#[test]
fn several_runs_are_one_page_with_every_ratio() {
    let page = Page::new(&[run(0.8), run(0.9)]).unwrap();
    assert_eq!(page.lines.len(), 2);
    let html = page.html();
    assert!(html.contains("2 such runs"), "{html}");
    assert!(
        html.contains("0.80 <small>(0.70-0.90)</small>, 0.90"),
        "{html}"
    );
    assert!(
        html.contains("connections &amp; their &lt;end&gt;"),
        "{html}"
    );
    assert!(html.contains("round 1: disturbed") && html.contains("420"));
    assert_eq!(
        html.matches("<svg").count(),
        3,
        "an overview and two workloads"
    );
    assert!(
        !html.contains("src=") && !html.contains("href="),
        "it needs nothing else"
    );
}

#[test]
fn columns_that_nobody_has_are_left_out() {
    let page = Page::new(&[run(0.8)]).unwrap();
    let rows = table(&page.lines[0]);
    let titles = [
        "",
        "CPU us/connection",
        "user",
        "system",
        "system calls",
        "flocker / it",
    ];
    assert_eq!(rows[0], titles);
    assert_eq!(rows[1][..2], ["flocker", "40.0 (39.0 to 41.0)"]);
    assert_eq!(rows[2][5], "0.80 (0.70-0.90)");
    assert_eq!(table(&page.lines[1])[0], ["", "bytes/session"]);
}

#[test]
fn markdown_has_its_drawing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edge.json");
    run(1.2).write(&file).unwrap();
    let out = folder.path().join("page.md");
    ReportArgs {
        files: vec![file],
        out: out.clone(),
    }
    .run()
    .unwrap();
    let text = fs::read_to_string(&out).unwrap();
    assert!(
        text.contains("![ratios of all workloads](page.svg)"),
        "{text}"
    );
    assert!(text.contains("| haproxy | 50.0 (49.0 to 51.0) |"), "{text}");
    let drawing = fs::read_to_string(folder.path().join("page.svg")).unwrap();
    assert!(
        drawing.contains("haproxy: 1.20 (1.10 to 1.30)"),
        "{drawing}"
    );
}

#[test]
fn numbers_have_the_digits_that_matter() {
    let shown: Vec<String> = [0.1234, 1.234, 12.34, 123.4].map(number).to_vec();
    assert_eq!(shown, ["0.123", "1.23", "12.3", "123"]);
}
