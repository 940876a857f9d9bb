DROP SCHEMA public CASCADE; CREATE SCHEMA public;
CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;
CREATE TYPE mood AS ENUM ('sad','ok','happy');
CREATE TABLE types (
 id int PRIMARY KEY, b boolean, i2 smallint, i4 int, i8 bigint, f4 real, f8 double precision,
 n numeric(12,3), nn numeric, m money, c char(5), vc varchar(20), t text, ct citext, by bytea,
 bit1 bit(1), bit12 bit(12), vb varbit(20),
 d date, tm time, tm3 time(3), ttz timetz, ts timestamp, ts3 timestamp(3), tstz timestamptz, iv interval,
 u uuid, j json, jb jsonb, x xml, md mood, inet inet, cidr cidr, mac macaddr, pt point, lt ltree,
 hs hstore, ir int4range, tr tstzrange, ia int[], ta text[], na numeric(8,2)[], da date[], tsv tsvector, ba boolean[], uu uuid[], tsa timestamp[], ma mood[]
);
INSERT INTO types VALUES (1,true,-2,3,9007199254740993,1.5,2.25,12345.678,1234567.00010,12.34,'ab','vär','tëxt','Ci','\x00ff10',
 B'1',B'101000000001',B'1011','2024-02-29','23:59:59.123456','01:02:03.004','10:00:00+02','2024-02-29 12:34:56.789012','2024-02-29 12:34:56.789','2024-02-29 12:34:56.789012+02','1 year 2 mons 3 days 04:05:06.789',
 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11','{"a": 1}','{"b": [1, 2]}','<a>1</a>','happy','10.0.0.1','10.0.0.0/8','08:00:2b:01:02:03','(1.5,-2.5)','a.b','"k"=>"v", "n"=>NULL','[1,5)','[2024-01-01 00:00+00,2024-01-02 00:00+00)',
 '{1,NULL,3}','{"a","b, c",NULL}','{1.50,2.25}','{2024-01-01}','a fat cat','{t,f}','{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}','{2024-01-01 00:00:00.5}','{sad,ok}');
CREATE TABLE docs (id int PRIMARY KEY, title text NOT NULL DEFAULT 'untitled', body text, raw bytea, tags text[], nums int[], bigs bigint[], attrs hstore, uuids uuid[], doc jsonb);
ALTER TABLE docs ALTER body SET STORAGE EXTERNAL, ALTER raw SET STORAGE EXTERNAL, ALTER tags SET STORAGE EXTERNAL, ALTER nums SET STORAGE EXTERNAL, ALTER bigs SET STORAGE EXTERNAL, ALTER attrs SET STORAGE EXTERNAL, ALTER uuids SET STORAGE EXTERNAL, ALTER doc SET STORAGE EXTERNAL;
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, visits int NOT NULL DEFAULT 7, email text);
CREATE TABLE audited (id int PRIMARY KEY, name text, amount numeric(10,2)); ALTER TABLE audited REPLICA IDENTITY FULL;
CREATE TABLE lines (order_id bigint, line smallint, sku text, PRIMARY KEY (order_id, line));
CREATE TABLE loose (word text, n int);
CREATE TABLE debezium_signal (id varchar(42) PRIMARY KEY, type varchar(32) NOT NULL, data varchar(2048));
INSERT INTO customers VALUES (1,'Ann',1,'ann@example.org'),(2,'Bob',2,NULL);
INSERT INTO audited VALUES (1,'first',10.50);
INSERT INTO lines VALUES (10,1,'A');
