/// Makes a test of each function for both adapters. The functions are generic over the pool; the
/// tests stand in modules `deadpool` and `bb8`, or in `deadpool_paused` and the like.
///
/// Functions `on a paused clock` need a network in memory. Functions `on runtimes of their own` are
/// not async. Functions `run by` a function are run by that function. Functions `of` two types are
/// for other types than the adapters' pools.
#[macro_export]
macro_rules! on_both {
    (on a paused clock: $($names:tt)*) => {
        $crate::on_both!(@each deadpool_paused, mongo_deadpool::Pool, (start_paused = true), $($names)*);
        $crate::on_both!(@each bb8_paused, mongo_bb8::Pool, (start_paused = true), $($names)*);
    };
    (on runtimes of their own: $($names:tt)*) => {
        $crate::on_both!(@threads deadpool_threads, mongo_deadpool::Pool, $($names)*);
        $crate::on_both!(@threads bb8_threads, mongo_bb8::Pool, $($names)*);
    };
    (run by $run:path: $($names:tt)*) => {
        $crate::on_both!(@run deadpool, mongo_deadpool::Pool, $run, $($names)*);
        $crate::on_both!(@run bb8, mongo_bb8::Pool, $run, $($names)*);
    };
    (of $deadpool:ty, $bb8:ty: $($names:tt)*) => {
        $crate::on_both!(@each deadpool, $deadpool, (), $($names)*);
        $crate::on_both!(@each bb8, $bb8, (), $($names)*);
    };
    (@each $module:ident, $pool:ty, $flavor:tt, $($name:ident),* $(,)?) => {
        mod $module {
            $(
                #[tokio::test $flavor]
                async fn $name() {
                    super::$name::<$pool>().await;
                }
            )*
        }
    };
    (@threads $module:ident, $pool:ty, $($name:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$name::<$pool>();
                }
            )*
        }
    };
    (@run $module:ident, $pool:ty, $run:path, $($name:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    $run(super::$name::<$pool>());
                }
            )*
        }
    };
    ($($names:tt)*) => {
        $crate::on_both!(of mongo_deadpool::Pool, mongo_bb8::Pool: $($names)*);
    };
}
