use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

#[cfg(feature = "dns")]
mod hickory;
#[cfg(test)]
mod tests;

#[cfg(feature = "dns")]
pub use hickory::HickoryResolver;

use crate::callback::guard_async;
use crate::error::{Error, Result, Wait};
use crate::net::deadline::{Deadline, Elapsed};
use crate::uri::{ClientOptions, RecordType, SrvError, SrvOptions, SrvRecord, TxtRecord};

const RESOLVER: &str = "DNS resolver";

/// Asks DNS for SRV and TXT records: the seam for a resolver of your own. With feature `dns` there
/// is `HickoryResolver`.
///
/// Names are absolute, without a dot at their end: no search domain is to be added. The caller
/// bounds the call and drops the future when that is over. What comes back is verified by the
/// caller; an implementation bounds what it reads, as DNS does by itself with messages of at most
/// 64 KiB. A panic in it is caught and logged, and counts as a failed lookup.
#[async_trait]
pub trait DnsResolver: Send + Sync + 'static {
    /// The SRV records of a name; none if there are none, or no such name.
    ///
    /// # Errors
    /// Why DNS could not be asked, or did not answer.
    async fn srv_lookup(&self, name: &str) -> io::Result<Vec<SrvRecord>>;

    /// The TXT records of a name; none if there are none, or no such name.
    ///
    /// # Errors
    /// Why DNS could not be asked, or did not answer.
    async fn txt_lookup(&self, name: &str) -> io::Result<Vec<TxtRecord>>;
}

/// Makes a `mongodb+srv` connection string into options with hosts: looks up its SRV and TXT
/// records, side by side, and takes them by [`ClientOptions::with_records`].
///
/// `random` chooses the hosts where `srvMaxHosts` allows fewer than there are:
/// [`system_random`] unless a test wants the same ones again. Options that name their hosts come
/// back as they are, and DNS is not asked. Bounded by `connectTimeoutMS` (default 10 s) and by the
/// deadline, whichever is earlier. Dropped meanwhile, it leaves nothing behind.
///
/// `Pools` and `Topology` do this by themselves. A pool of one server is made from options with
/// hosts, so this comes before:
/// ```no_run
/// use mongo_core::net::{DnsResolver, resolve, system_random};
/// use mongo_core::pools::ConnectionFactory;
/// use mongo_core::{ClientOptions, Deadline};
///
/// # async fn example(resolver: &dyn DnsResolver) -> mongo_core::Result<()> {
/// let options = ClientOptions::parse("mongodb+srv://cluster0.example.com/?tls=false")?;
/// let options = resolve(options, resolver, system_random, Deadline::never()).await?;
/// let factory = ConnectionFactory::builder(options).build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::Srv`](crate::ErrorKind::Srv) that names the record, or a time-out that names the
/// record that was not answered.
pub async fn resolve(
    options: ClientOptions,
    resolver: &dyn DnsResolver,
    random: impl FnMut() -> u64,
    deadline: Deadline,
) -> Result<ClientOptions> {
    resolve_with(options, resolver, random, deadline, &Lookup::default()).await
}

/// Which records a lookup still waits for.
#[derive(Default)]
pub(crate) struct Lookup {
    has_srv: AtomicBool,
}

impl Lookup {
    /// The error of a lookup that has no answer yet.
    pub(crate) fn unanswered(&self, srv: &SrvOptions) -> SrvError {
        let (record_type, name) = match self.has_srv.load(Ordering::Acquire) {
            true => (RecordType::Txt, Ok(srv.bare_host_name().to_owned())),
            false => (RecordType::Srv, srv.record_name()),
        };
        match name {
            Ok(name) => SrvError::Unanswered { record_type, name },
            Err(error) => error,
        }
    }
}

/// [`resolve`], where others can see what it waits for.
pub(crate) async fn resolve_with(
    options: ClientOptions,
    resolver: &dyn DnsResolver,
    mut random: impl FnMut() -> u64,
    deadline: Deadline,
    lookup: &Lookup,
) -> Result<ClientOptions> {
    let Some(srv) = &options.srv else {
        return Ok(options);
    };
    let (record_name, host_name) = (srv.record_name()?, srv.bare_host_name());
    let deadline = deadline.within(options.connect_timeout);
    lookup.has_srv.store(false, Ordering::Release);
    let lookup_hosts = async {
        let records = lookup_srv(resolver, &record_name).await?;
        lookup.has_srv.store(true, Ordering::Release);
        Ok(records)
    };
    let lookups = async { tokio::try_join!(lookup_hosts, lookup_txt(resolver, host_name)) };
    let (records, txt) = match deadline.bound(lookups).await {
        Ok(outcome) => outcome?,
        Err(Elapsed) => {
            let unanswered = Error::from(lookup.unanswered(srv));
            let error = deadline.timed_out(Wait::Dns);
            return Err(error.caused_by(Some(unanswered)));
        }
    };
    Ok(options.with_records(&records, &txt, &mut random)?)
}

/// What looks up the records for options, if there are any: the given one, else the system's.
///
/// # Errors
/// There is no host, and none for their look-up either; the system's name servers can't be read.
pub(crate) fn resolver_for(
    options: &ClientOptions,
    given: Option<Arc<dyn DnsResolver>>,
) -> Result<Option<Arc<dyn DnsResolver>>> {
    let resolver = match (&options.srv, given) {
        (None, _) => None,
        (Some(_), Some(given)) => Some(given),
        (Some(_), None) => default_resolver()?,
    };
    match (options.hosts.is_empty(), &options.srv, &resolver) {
        (true, None, _) => Err(Error::configuration("there is no host")),
        (true, Some(_), None) => Err(Error::configuration(
            "`mongodb+srv` needs the feature `dns` of mongo-core, which mongo-deadpool and mongo-bb8 \
             have as well, or a resolver of your own",
        )),
        _ => Ok(resolver),
    }
}

#[cfg(feature = "dns")]
fn default_resolver() -> Result<Option<Arc<dyn DnsResolver>>> {
    let resolver = HickoryResolver::from_system()?;
    Ok(Some(Arc::new(resolver)))
}

#[cfg(not(feature = "dns"))]
fn default_resolver() -> Result<Option<Arc<dyn DnsResolver>>> {
    Ok(None)
}

async fn lookup_srv(resolver: &dyn DnsResolver, name: &str) -> Result<Vec<SrvRecord>, SrvError> {
    let outcome = srv_lookup(resolver, name).await;
    outcome.map_err(|error| failed(RecordType::Srv, name, error))
}

async fn lookup_txt(resolver: &dyn DnsResolver, name: &str) -> Result<Vec<TxtRecord>, SrvError> {
    let outcome = guard_async(RESOLVER, || resolver.txt_lookup(name)).await;
    let outcome = outcome.unwrap_or_else(|panicked| Err(panicked.into_io()));
    outcome.map_err(|error| failed(RecordType::Txt, name, error))
}

/// Asks the resolver for SRV records.
pub(crate) async fn srv_lookup(
    resolver: &dyn DnsResolver,
    name: &str,
) -> io::Result<Vec<SrvRecord>> {
    let outcome = guard_async(RESOLVER, || resolver.srv_lookup(name)).await;
    outcome.unwrap_or_else(|panicked| Err(panicked.into_io()))
}

fn failed(record_type: RecordType, name: &str, error: io::Error) -> SrvError {
    SrvError::Lookup {
        record_type,
        name: name.to_owned(),
        error: Arc::new(error),
    }
}

/// A number at random, uniform over all `u64`: good enough to spread load, not for secrets.
pub fn system_random() -> u64 {
    // Every new state has other keys, made from the system's randomness.
    RandomState::new().hash_one(())
}
