DROP DATABASE IF EXISTS inventory; CREATE DATABASE inventory CHARACTER SET utf8mb4; USE inventory;
CREATE TABLE types (id int unsigned PRIMARY KEY AUTO_INCREMENT, t1 tinyint(1), t2 tinyint unsigned, i8u bigint unsigned, f float, d double, n decimal(12,3), c char(5), vc varchar(20), tx text, b blob, bi binary(4), bt bit(12), b1 bit(1), dt date, tm time(6), dtm datetime(6), dt3 datetime(3), dt0 datetime, ts timestamp(6) NULL, y year, e enum('a','b'), s set('x','y','z'), j json, g point);
INSERT INTO types VALUES (1,1,200,18446744073709551615,1.5,2.25,12345.678,'ab','vär','tëxt',x'00ff10',x'01020304',b'101000000001',b'1','2024-02-29','23:59:59.123456','2024-02-29 12:34:56.789012','2024-02-29 12:34:56.789','2024-02-29 12:34:56','2024-02-29 12:34:56.789012',2024,'b','x,z','{"a": 1}',ST_GeomFromText('POINT(1.5 -2.5)'));
CREATE TABLE customers (id int PRIMARY KEY, name varchar(50) NOT NULL, visits int NOT NULL DEFAULT 7);
INSERT INTO customers VALUES (1,'Ann',1),(2,'Bob',2);
