use std::fmt::{self, Display};

use mongo_core::pools::PoolStatus;
use mongo_core::sdam::{ServerDescription, TopologyDescription};

use crate::backend::Pools;

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; color: #222 }
h1 { font-size: 1.3rem } h2 { font-size: 1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.RSPrimary td:nth-child(2), .Standalone td:nth-child(2), .Mongos td:nth-child(2) { color: #06762b; font-weight: 600 }
.Unknown td:nth-child(2), .Paused td:nth-child(3) { color: #b3261e; font-weight: 600 }
ol { color: #555; padding-left: 1.2rem } .lost { opacity: .4 }";

/// Replaces the shown page by the current one at intervals, and lists changes of the primary.
const SCRIPT: &str = "
const primary = () => document.querySelector('tr.RSPrimary td')?.textContent ?? 'none';
setInterval(async () => {
  const before = primary();
  try {
    const text = await (await fetch(location.href)).text();
    const now = new DOMParser().parseFromString(text, 'text/html').querySelector('main');
    document.querySelector('main').replaceWith(now);
    document.body.classList.remove('lost');
  } catch { document.body.classList.add('lost') }
  if (primary() !== before) {
    const line = document.createElement('li');
    line.textContent = `${new Date().toLocaleTimeString()} primary: ${before} \u{2192} ${primary()}`;
    document.querySelector('#changes').prepend(line);
  }
}, 500);";

/// A page that shows the deployment and its pools, and updates itself. Does not wait and does not
/// check out a connection.
pub fn page(pools: &Pools) -> String {
    let known = pools.topology().description();
    let (servers, pools) = (Servers(&known), PoolTable(pools.status()));
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Database</title>\
         <style>{STYLE}</style><body><h1>Database</h1><main>{servers}{pools}</main>\
         <h2>Seen on this page</h2><ol id=changes></ol><script>{SCRIPT}</script></html>"
    )
}

struct Servers<'a>(&'a TopologyDescription);

impl Display for Servers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.set_name().map_or("", |name| name);
        let kind = self.0.topology_type();
        write!(f, "<h2>{kind} {}</h2>", Escaped(name))?;
        f.write_str("<table id=servers><tr><th>Server<th>Type<th class=number>RTT<th>Error")?;
        for server in self.0.servers() {
            write_server(f, server)?;
        }
        f.write_str("</table>")
    }
}

fn write_server(f: &mut fmt::Formatter<'_>, server: &ServerDescription) -> fmt::Result {
    let (address, kind) = (Escaped(&server.address), server.server_type);
    let time = server.round_trip_time;
    let time = time.map(|time| format!("{:.2} ms", time.as_secs_f64() * 1e3));
    let error = server.error.as_ref().map(ToString::to_string);
    write!(
        f,
        "<tr class={kind}><td>{address}<td>{kind}<td class=number>{}<td>{}",
        time.unwrap_or_default(),
        Escaped(error.unwrap_or_default())
    )
}

struct PoolTable(Vec<PoolStatus>);

impl Display for PoolTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<h2>Pools</h2><table id=pools><tr><th>Server<th>User<th>State")?;
        for heading in ["Size", "Idle", "In use", "Waiting", "Created"] {
            write!(f, "<th class=number>{heading}")?;
        }
        for pool in &self.0 {
            let (server, state) = (Escaped(&pool.server), pool.state);
            let user = Escaped(pool.user.as_deref().unwrap_or("-"));
            write!(f, "<tr class={state:?}><td>{server}<td>{user}<td>{state:?}")?;
            for number in [pool.size, pool.idle, pool.in_use, pool.waiting] {
                write!(f, "<td class=number>{number}")?;
            }
            write!(f, "<td class=number>{}", pool.created)?;
        }
        f.write_str("</table>")
    }
}

/// Escapes text for HTML: the names of servers and their error messages are untrusted.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_fmt(format_args!("{other}"))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Escaped;

    #[test]
    fn text_is_no_markup() {
        let text = Escaped("<script>alert('&\"')</script>").to_string();
        assert_eq!(
            text,
            "&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;"
        );
    }
}
