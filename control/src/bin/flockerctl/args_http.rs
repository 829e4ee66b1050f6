//! What `route add` and `route set` say of HTTP.

use flocker_api::{redirect::Redirect, route::Route};

#[derive(Debug, clap::Args)]
pub(crate) struct Http {
    /// Send clients that come in clear to https: 308 unless another status is given (301, 302,
    /// 307), or no
    #[arg(
        long,
        value_parser = redirect,
        num_args = 0..=1,
        default_missing_value = "308",
        value_name = "STATUS|no"
    )]
    redirect_https: Option<Choice<Redirect>>,
    /// Whether CONNECT is passed to the upstream, which is then a proxy itself
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    allow_connect: Option<bool>,
    /// Longest request body in bytes, or no for any length
    #[arg(long, value_parser = bytes, value_name = "BYTES|no")]
    body_bytes_max: Option<Choice<u64>>,
    /// The edge's set of error pages, or no for its default
    #[arg(long, value_parser = set, value_name = "NAME|no")]
    error_pages: Option<Choice<String>>,
}

/// A value, or none.
#[derive(Debug, Clone)]
struct Choice<T>(Option<T>);

impl Http {
    /// Changes a route to what was typed.
    pub(crate) fn apply(self, route: &mut Route) {
        if let Some(Choice(redirect)) = self.redirect_https {
            route.redirect_https = redirect;
        }
        if let Some(allow) = self.allow_connect {
            route.allow_connect = allow;
        }
        if let Some(Choice(bytes)) = self.body_bytes_max {
            route.body_bytes_max = bytes;
        }
        if let Some(Choice(set)) = self.error_pages {
            route.error_pages = set;
        }
    }
}

fn redirect(text: &str) -> Result<Choice<Redirect>, String> {
    if text == "no" {
        return Ok(Choice(None));
    }
    let status = text
        .parse()
        .map_err(|_| "it is a status, or no".to_owned())?;
    let redirect = Redirect::new(status).map_err(|error| error.to_string())?;
    Ok(Choice(Some(redirect)))
}

fn bytes(text: &str) -> Result<Choice<u64>, &'static str> {
    match text {
        "no" => Ok(Choice(None)),
        text => match text.parse() {
            Ok(bytes) => Ok(Choice(Some(bytes))),
            Err(_) => Err("it is a number of bytes, or no"),
        },
    }
}

#[expect(clippy::unnecessary_wraps, reason = "clap asks for a result")]
fn set(text: &str) -> Result<Choice<String>, String> {
    Ok(Choice((text != "no").then(|| text.to_owned())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        http: Http,
    }

    fn applied(words: &[&str]) -> Route {
        let words = ["x"].iter().chain(words);
        let mut route = Route::new(
            "http:a.b".parse().unwrap(),
            [std::net::SocketAddr::from(([10, 0, 0, 1], 80))],
        );
        route.body_bytes_max = Some(1);
        Typed::parse_from(words).http.apply(&mut route);
        route
    }

    #[test]
    fn what_is_not_typed_stays_and_no_takes_away() {
        assert_eq!(applied(&[]).body_bytes_max, Some(1));
        assert_eq!(applied(&["--body-bytes-max", "no"]).body_bytes_max, None);
        let route = applied(&["--body-bytes-max", "5", "--allow-connect"]);
        assert_eq!((route.body_bytes_max, route.allow_connect), (Some(5), true));
        let status = |words: &[&str]| applied(words).redirect_https.map(Redirect::status);
        assert_eq!(status(&["--redirect-https"]), Some(308));
        assert_eq!(status(&["--redirect-https", "301"]), Some(301));
        assert_eq!(status(&["--redirect-https", "no"]), None);
        assert_eq!(
            applied(&["--error-pages", "shop"]).error_pages.as_deref(),
            Some("shop")
        );
        assert!(Typed::try_parse_from(["x", "--redirect-https", "303"]).is_err());
    }
}
